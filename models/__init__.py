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

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from errors import UserError
from experiments import default
from models.bigram import Bigram
from models.gpt2 import CHOICES, GPT2
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
# Keys that are no sizes of a model.
OF_ALL = {"name", "init_from"}


def build(config: ConfigDict, vocab_size: int) -> nn.Module:
    """The module that `config` (a whole config's `model`) describes.

    Raises UserError for an unknown name, a size that is missing, not positive or not this
    stage's, an unknown choice, and for heads that do not divide what they share.
    """
    if config.name not in STAGES:
        raise UserError(f"config.model.name={config.name!r} is none of {', '.join(STAGES)}")
    stage = STAGES[config.name]
    takes = {field.name for field in fields(stage)} & set(config)
    neutral = default.get_config().model
    found = []
    for key, value in config.items():
        if key in ("embed_dim", "num_heads", "num_layers", "context_length") and (
            key in takes or key == "context_length"  # The bigram's batches have one, too.
        ):
            if value < 1:
                found.append(f"config.model.{key}={value}: {config.name} needs at least 1")
        elif key in CHOICES and key in takes:
            if value not in CHOICES[key]:
                choices = ", ".join(CHOICES[key])
                found.append(f"config.model.{key}={value!r}: expected one of {choices}")
        elif key not in takes | OF_ALL and value != neutral[key]:
            found.append(
                f"config.model.{key}={value}: {config.name} has none; leave it at {neutral[key]!r}"
            )
    if not found and "num_heads" in takes:
        found = _misshapen_heads(config)
    if found:
        raise UserError("; ".join(found))
    return stage(vocab_size=vocab_size, **{key: config[key] for key in takes})


def count_parameters(params: dict) -> tuple[int, int]:
    """How many numbers there are, and how many of them outside of tables of tokens and positions.

    A head of its own is one more such table, and so are pairs of tokens.
    """
    inside = ("embed", "pair_embed", "logits", "next_token")
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in params}
    return sum(counts.values()), sum(counts[name] for name in counts if name not in inside)


def widening(config: ConfigDict) -> float:
    """How many times as wide the model is as the one that its learning rate was found for."""
    return (
        config.embed_dim / config.mup_base_dim
        if config.mup_base_dim > 0 < config.embed_dim
        else 1.0
    )


def _misshapen_heads(config: ConfigDict) -> list[str]:
    """What is wrong with the number of heads, a sentence each; all sizes are 1 or more."""
    H, G, D = config.num_heads, config.num_kv_heads, config.embed_dim
    if D % H:
        return [
            f"config.model.embed_dim={D} is not divisible by config.model.num_heads={H}: each head "
            "gets an equal share"
        ]
    found = []
    if G and H % G:
        found.append(
            f"config.model.num_kv_heads={G}: expected a divisor of config.model.num_heads={H}, or 0"
        )
    if config.positions == "rotary" and D // H % 2:
        found.append(
            f"config.model.positions='rotary' turns pairs, and config.model.embed_dim={D} over "
            f"num_heads={H} is {D // H}: make that even"
        )
    return found
