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

from experiments import default
from models.bigram import Bigram
from models.gpt2 import GPT2
from models.gpt2_variants import CHOICES, GPT2Variant
from models.multi_head_attention import MultiHeadAttentionModel
from models.self_attention import SelfAttentionModel
from models.transformer_decoder import TransformerDecoder
from runtime.errors import UserError

STAGES = {
    "bigram": Bigram,
    "self_attention": SelfAttentionModel,
    "multi_head_attention": MultiHeadAttentionModel,
    "transformer_decoder": TransformerDecoder,
    "gpt2": GPT2,
}
# The form of a stage that has knobs: it takes the place of a stage whose config turns one.
VARIANTS = {"gpt2": GPT2Variant}
# Keys that are no sizes of a model.
OF_ALL = {"name", "init_from"}


def build(
    config: ConfigDict, vocab_size: int, *, splits: bool = False, remat: bool = False
) -> nn.Module:
    """Returns the module that `config` (a whole config's `model`) describes.

    A stage as it stands in its file, unless a knob is turned, or training asks for a module that
    `splits` into features and head, or that recomputes its blocks (`remat`).

    Raises UserError for an unknown name, a size that is missing, not positive or not this
    stage's, an unknown choice, for heads that do not divide what they share, and for a stage that
    neither splits nor recomputes.
    """
    if config.name not in STAGES:
        raise UserError(f"config.model.name={config.name!r} is none of {', '.join(STAGES)}")
    stage = STAGES[config.name]
    variant = VARIANTS.get(config.name, stage)
    takes = {field.name for field in fields(variant)} & set(config)
    check_sizes(config, takes)
    own = {field.name for field in fields(stage)} & takes
    neutral = default.get_config().model
    is_plain = all(config[key] == neutral[key] for key in takes - own)
    sizes = {key: config[key] for key in takes}
    if "attention_dropout_rate" in takes and config.attention_dropout_rate < 0:
        sizes["attention_dropout_rate"] = config.dropout_rate
    if is_plain and not splits and not remat:
        return stage(vocab_size, **{key: sizes[key] for key in own})
    if variant is stage:
        raise UserError(
            f"config.model.name={config.name!r} has neither blocks to recompute nor logits to make "
            "in parts: leave config.train.remat at 'none' and config.train.loss_chunks at 1"
        )
    return variant(vocab_size, **sizes, **({"remat": True} if remat else {}))


def check_sizes(config: ConfigDict, takes: set[str]) -> None:
    """Raises UserError that lists what is wrong with a model of which `takes` are the keys."""
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


def count_parameters(params: dict) -> tuple[int, int]:
    """Returns the number of parameters, and of those outside of tables of tokens and positions.

    A head of its own is one more such table, and so are pairs of tokens.
    """
    inside = ("embed", "pair_embed", "logits", "next_token")
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in params}
    return sum(counts.values()), sum(counts[name] for name in counts if name not in inside)


def width_multiplier(config: ConfigDict) -> float:
    """Returns the model's width over that of the model that its learning rate was found for."""
    return (
        config.embed_dim / config.mup_base_dim
        if config.mup_base_dim > 0 < config.embed_dim
        else 1.0
    )


def _misshapen_heads(config: ConfigDict) -> list[str]:
    """Returns a sentence for each mistake in the number of heads; all sizes are 1 or more."""
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
            f"config.model.positions='rotary' rotates pairs, and config.model.embed_dim={D} over "
            f"num_heads={H} is {D // H}: make that even"
        )
    return found
