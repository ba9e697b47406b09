"""Layers that the stages share: fast implementations of what Flax has, and the key/value cache.

dense.py       dense layer with matmul layouts that are fast on a CPU, and in bfloat16
attention.py   causal attention in blocks of queries, or by a GPU kernel
cudnn.py       cuDNN's fused attention kernel
cache.py       key/value cache for generation
dropout.py     dropout that draws a quarter of the random bits
reference.py   switch between the optimized and the reference implementations
target.py      device that programs are traced for
"""

from models.layers.attention import expose, in_query_blocks
from models.layers.cache import KeyValueCache, Position, change_cache
from models.layers.dense import Dense, tied_logits
from models.layers.dropout import Dropout

__all__ = [
    "Dense",
    "Dropout",
    "KeyValueCache",
    "Position",
    "change_cache",
    "expose",
    "in_query_blocks",
    "tied_logits",
]
