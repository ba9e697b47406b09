"""Computation of what the stages are made of; nothing here is the idea of a stage.

    dense.py       dense layers with matmul layouts that are fast on a CPU, and in bfloat16
    attention.py   causal attention in blocks of queries, or by a kernel of the GPU
    cudnn.py       that kernel
    cache.py       keys and values kept while text is generated
    dropout.py     dropout with a quarter of the random numbers
    reference.py   the switch to the plain definitions that all of this is tested against
    target.py      the device that programs are traced for

What a stage file imports from here computes the same numbers as Flax's own layers, and as the
function that it decorates.
"""

from models.layers.attention import in_query_blocks
from models.layers.cache import KeyValueCache, Position
from models.layers.dense import Dense, tied_logits
from models.layers.dropout import Dropout

__all__ = ["Dense", "Dropout", "KeyValueCache", "Position", "in_query_blocks", "tied_logits"]
