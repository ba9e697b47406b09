"""Five language models, each adding one idea to the one before; the imports are the syllabus.

    bigram -> self_attention -> multi_head_attention -> transformer_decoder -> gpt2

**Axis letters**, in names (`x_BTD`) and in einsum strings alike: B batch, T query time (a window
has T tokens), S key time, D embed, H heads, K per head, F MLP, V vocabulary; L blocks; 1 an axis of
one.

**Flax.** A module is a dataclass of sizes. `@nn.compact` lets `__call__` create layers where it
uses them; `name=` is a layer's key in the tree of parameters. A module with `setup` creates them
there, and their attributes are the keys.

**Model contract.** `model(tokens_BT, *, start=0, train=False) -> logits_BTV`, float32. Logits are
scores whose softmax is the probability of each token; those at position t are for the token after
tokens[:, t] and depend on no later token. Training calls a model once for a window. Generation
calls it for a few tokens at a time: `start` is the position of the first of them, and what earlier
calls kept is in the Flax collection "cache", which `apply(..., mutable=["cache"])` fills and
returns. `train=True` turns dropout on, from stage 5 on, with an rng named "dropout". The loss is
not the model's.
"""

from dataclasses import fields

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from experiments import default
from experiments.without import ideas
from models.bigram import Bigram
from models.gpt2 import GPT2
from models.gpt2_variants import CHOICES, GPT2Variant
from models.multi_head_attention import MultiHeadAttentionModel
from models.padding import Padded
from models.self_attention import SelfAttentionModel
from models.transformer_decoder import TransformerDecoder
from models.without import IDEAS, Without
from runtime.errors import UserError

STAGES = {
    "bigram": Bigram,
    "self_attention": SelfAttentionModel,
    "multi_head_attention": MultiHeadAttentionModel,
    "transformer_decoder": TransformerDecoder,
    "gpt2": GPT2,
}
# Keys of `config.model` that every stage has, whether its module has the attribute or not.
COMMON = {"name", "init_from", "context_length", "without", "pad_vocab_to"}


def build(
    config: ConfigDict, num_tokens: int, *, splits: bool = False, remat: bool = False
) -> nn.Module:
    """Returns the module that `config` (a whole config's `model`) describes.

    It is `Padded` if `config` asks for a larger vocabulary, and else what `build_stage` returns.
    Raises UserError as that does, and for a vocabulary of fewer rows than tokens.
    """
    if not (rows := config.pad_vocab_to):
        return build_stage(config, num_tokens, splits=splits, remat=remat)
    if rows < num_tokens:
        raise UserError(
            f"--config.model.pad_vocab_to={rows}: expected {num_tokens} or more, for the tokenizer "
            "has so many tokens, or 0"
        )
    return Padded(build_stage(config, rows, splits=splits, remat=remat), num_tokens)


def build_stage(
    config: ConfigDict, vocab_size: int, *, splits: bool = False, remat: bool = False
) -> nn.Module:
    """Returns the module that `config` describes, with `vocab_size` rows.

    It is the stage's own class, `Without` for one that leaves an idea out, or GPT2Variant for a
    GPT-2 with other settings, one that `splits` into features and head, or one that recomputes its
    blocks (`remat`).

    Raises UserError for an unknown name or choice, for a size that is missing, not positive or not
    this stage's, for sizes that the heads do not divide, for an idea that the stage does not have,
    and for a stage without `splits`, `remat`.
    """
    if config.name not in STAGES:
        raise UserError(f"--config.model.name={config.name!r}: expected one of {', '.join(STAGES)}")
    stage = STAGES[config.name]
    variant = GPT2Variant if stage is GPT2 else stage
    keys = {field.name for field in fields(variant)} & set(config)
    check_sizes(config, keys)
    own = {field.name for field in fields(stage)} & keys
    neutral = default.get_config().model
    is_plain = all(config[key] == neutral[key] for key in keys - own)
    sizes = {key: config[key] for key in keys}
    if "attention_dropout_rate" in keys and config.attention_dropout_rate < 0:
        sizes["attention_dropout_rate"] = config.dropout_rate
    if is_plain and not splits and not remat:
        plain = stage(vocab_size, **{key: sizes[key] for key in own})
        return Without(plain, config.without) if config.without else plain
    if config.without:
        raise UserError(
            f"--config.model.without={config.without!r} leaves an idea out of the published GPT-2: "
            "expected no other changes to it, --config.train.remat='none' and "
            "--config.train.loss_chunks=1"
        )
    if variant is stage:
        raise UserError(
            f"--config.model.name={config.name!r} can neither recompute blocks nor compute its "
            "logits in chunks: set --config.train.remat='none' and --config.train.loss_chunks=1"
        )
    return variant(vocab_size, **sizes, **({"remat": True} if remat else {}))


def check_sizes(config: ConfigDict, keys: set[str]) -> None:
    """Raises a UserError that lists the mistakes in the `config` of a model that has these keys."""
    neutral = default.get_config().model
    found = []
    known = sorted(IDEAS.keys() & ideas(config.name).keys())
    if config.without and config.without not in known:
        expected = f"expected one of {', '.join(known)}" if known else f"{config.name} has none"
        found.append(f"--config.model.without={config.without!r}: {expected}")
    for key, value in config.items():
        if key not in keys | COMMON:
            if value != neutral[key]:
                usual = f"leave it at {neutral[key]!r}"
                found.append(f"--config.model.{key}={value}: {config.name} has none; {usual}")
        elif key in ("embed_dim", "num_heads", "num_layers", "context_length") and value < 1:
            found.append(f"--config.model.{key}={value}: {config.name} needs at least 1")
        elif key in CHOICES and value not in CHOICES[key]:
            choices = ", ".join(CHOICES[key])
            found.append(f"--config.model.{key}={value!r}: expected one of {choices}")
    if not found and "num_heads" in keys:
        found = _misshapen_heads(config)
    if found:
        raise UserError("; ".join(found))


def count_parameters(params: dict) -> tuple[int, int]:
    """Returns the number of parameters, and of those outside of embeddings and an untied head."""
    tables = ("embed", "pair_embed", "logits", "next_token")
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in params}
    return sum(counts.values()), sum(counts[name] for name in counts if name not in tables)


def width_multiplier(config: ConfigDict) -> float:
    """Returns embed_dim / mup_base_dim, muP's width ratio (Yang et al., 2021); 1 without muP."""
    has_mup = config.mup_base_dim > 0 and config.embed_dim > 0
    return config.embed_dim / config.mup_base_dim if has_mup else 1.0


def _misshapen_heads(config: ConfigDict) -> list[str]:
    """Returns a message for each mistake in the head counts, given sizes of at least 1."""
    H, G, D = config.num_heads, config.num_kv_heads, config.embed_dim
    if D % H:
        return [
            f"--config.model.embed_dim={D} is not divisible by "
            f"--config.model.num_heads={H}: each head gets an equal share"
        ]
    found = []
    if G and H % G:
        found.append(
            f"--config.model.num_kv_heads={G}: expected a divisor of "
            f"--config.model.num_heads={H}, or 0"
        )
    if config.positions == "rotary" and D // H % 2:
        found.append(
            f"--config.model.positions='rotary' needs an even head width, and "
            f"--config.model.embed_dim={D} / num_heads={H} is {D // H}: change one of them"
        )
    return found
