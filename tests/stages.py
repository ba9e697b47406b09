"""A tiny model of each stage, with sizes that differ pairwise: B=2, T=5, H=3, K=4, L=2, V=11."""

import jax
import jax.numpy as jnp

import models
from experiments import gpt2

V, T = 11, 5
NO_DROPOUT = dict(dropout_rate=0.0, attention_dropout_rate=0.0)
TINY = {
    "bigram": models.Bigram(V),
    "self_attention": models.SelfAttentionModel(V, T, embed_dim=12),
    "multi_head_attention": models.MultiHeadAttentionModel(V, T, embed_dim=12, num_heads=3),
    "transformer_decoder": models.TransformerDecoder(V, T, embed_dim=12, num_heads=3, num_layers=2),
    "gpt2": models.GPT2(V, T, 12, 3, 2, dropout_rate=0.5, attention_dropout_rate=0.5),
}
# The same with every knob at hand, and with each of its changes; at first zero_init is the same.
VARIANT = models.GPT2Variant(V, T, 12, 3, 2, dropout_rate=0.5, attention_dropout_rate=0.5)
CHANGED = {
    name: VARIANT.clone(**{key.removeprefix("model."): value for key, value in change.items()})
    for name, change in gpt2.CHANGES.items()
    if all(key.startswith("model.") for key in change) and name != "zero_init"
}
# Stages that look further back than one token.
ATTENTIVE = [name for name in TINY if name != "bigram"]


def init(name: str, scale: float = 1.0) -> dict:
    """Parameters of that model, multiplied by `scale` to make differences visible."""
    params = (TINY | CHANGED)[name].init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: leaf * scale, params)
