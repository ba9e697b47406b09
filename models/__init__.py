"""The five stages, each adding one idea to the one before; the imports are the syllabus.

    bigram -> self_attention -> multi_head_attention -> transformer_decoder -> gpt2

**Axis letters**, in names (`x_BTD`) and in einsum strings alike: B batch, T query time, S key
time, D embed, H heads, K per head, F MLP, V vocabulary. (`jax.nn` spells heads N and K H.)

**Model contract.** `model(tokens_BT, *, start=0, train=False) -> logits_BTV`, float32. Position t
of the logits scores the token after tokens[:, t] and depends on no later token. `start` is where
the first token stands in the context; other than 0 it needs the collection "cache" of the calls
before, which `apply(..., mutable=["cache"])` fills and returns. `train=True` drops activations and
needs an rng named "dropout". No loss inside, no shape that depends on the mode.
"""

from dataclasses import fields

from flax import linen as nn
from ml_collections import ConfigDict

from errors import UserError
from models.bigram import Bigram
from models.gpt2 import GPT2
from models.multi_head_attention import MultiHeadAttentionModel
from models.self_attention import SelfAttentionModel
from models.transformer_decoder import TransformerDecoder

STAGES = {
    "bigram": Bigram,
    "self_attention": SelfAttentionModel,
    "multi_head_attention": MultiHeadAttentionModel,
    "transformer_decoder": TransformerDecoder,
    "gpt2": GPT2,
}


def build(config: ConfigDict, vocab_size: int) -> nn.Module:
    """The module that `config` (a whole config's `model`) describes.

    Raises UserError for an unknown name, a size that is missing, not positive or not this
    stage's, and for heads that do not divide the width.
    """
    if config.name not in STAGES:
        raise UserError(f"config.model.name={config.name!r} is none of {', '.join(STAGES)}")
    stage = STAGES[config.name]
    takes = {field.name for field in fields(stage)} & set(config)
    found = []
    for key, value in config.items():
        if key in ("embed_dim", "num_heads", "num_layers", "context_length") and (
            key in takes or key == "context_length"  # The bigram's batches have one, too.
        ):
            if value < 1:
                found.append(f"config.model.{key}={value}: {config.name} needs at least 1")
        elif key != "name" and key not in takes and value:
            found.append(f"config.model.{key}={value}: {config.name} has none; leave it at 0")
    if "num_heads" in takes and config.num_heads > 0 and config.embed_dim % config.num_heads:
        found.append(
            f"config.model.embed_dim={config.embed_dim} is not divisible by "
            f"config.model.num_heads={config.num_heads}: each head gets an equal share"
        )
    if found:
        raise UserError("; ".join(found))
    return stage(vocab_size=vocab_size, **{key: config[key] for key in takes})
