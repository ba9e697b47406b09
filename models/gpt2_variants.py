"""GPT-2 with later changes to its architecture, each a setting whose default is GPT-2's own.

`experiments/gpt2.py` has a preset for each; `sweeps/architecture.yaml` compares them. With all
defaults this equals models/gpt2.py, parameter by parameter, and models.build returns that.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.gpt2 import GPT2, TiedEmbed, init
from models.gpt2_parts import ACTIVATIONS, NORMS, MakeModule, PairEmbed, VariantMlp
from models.layers import (
    Dense,
    Dropout,
    KeyValueCache,
    Position,
    expose,
    in_query_blocks,
    reference,
)
from models.positions import alibi_penalties, alibi_slopes, apply_rope
from models.self_attention import causal_attention, causal_scores

# Settings that are names, and the names that each takes.
CHOICES = {
    "positions": ("learned", "rotary", "alibi", "none"),
    "norm": tuple(NORMS),
    "activation": (*ACTIVATIONS, "swiglu"),
}


@in_query_blocks
def variant_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    start: Position = 0,
    drop: Dropout | None,
    slopes_H: np.ndarray | None,
) -> jax.Array:
    """Returns causal attention over [B, T, H, K], with ALiBi's slopes and with dropout, if any."""
    scores_BHTS = causal_scores(query, key, start)
    if slopes_H is not None:
        scores_BHTS -= alibi_penalties(slopes_H, start, *scores_BHTS.shape[2:])[None]
    weights_BHTS = expose(jax.nn.softmax(scores_BHTS))
    if drop:
        weights_BHTS = drop(weights_BHTS, deterministic=False)
    return jnp.einsum("BHTS,BSHK->BTHK", weights_BHTS, value)


class VariantAttention(nn.Module):
    """GPT-2's attention with optional RoPE, ALiBi, shared keys and values, and query-key norm."""

    num_heads: int
    context_length: int
    make_dense: MakeModule
    make_out: MakeModule
    dropout_rate: float = 0.0
    positions: str = "learned"
    num_kv_heads: int = 0  # Heads of keys and values; 0: as many as there are queries.
    query_key_norm: MakeModule | None = None

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        B, T, D = x_BTD.shape
        H, K = self.num_heads, D // self.num_heads
        G = self.num_kv_heads or H
        q_BTHK, k_BTGK, v_BTGK = (
            self.make_dense(count * K, name=name)(x_BTD).reshape(B, T, count, K)
            for name, count in (("query", H), ("key", G), ("value", G))
        )
        if self.query_key_norm:
            q_BTHK = self.query_key_norm(name="query_norm")(q_BTHK)
            k_BTGK = self.query_key_norm(name="key_norm")(k_BTGK)
        if self.positions == "rotary":
            q_BTHK, k_BTGK = apply_rope(q_BTHK, start), apply_rope(k_BTGK, start)
        past = KeyValueCache(self.context_length, name="past")
        k_BSHK, v_BSHK = past(start, key=k_BTGK, value=v_BTGK)
        if G < H:  # H / G neighbours share a key and a value (Ainslie et al., 2023).
            k_BSHK, v_BSHK = (jnp.repeat(x, H // G, axis=2) for x in (k_BSHK, v_BSHK))
        drop = Dropout(self.dropout_rate) if train and self.dropout_rate else None
        slopes_H = alibi_slopes(H) if self.positions == "alibi" else None
        attend = causal_attention
        if drop or slopes_H is not None:
            attend = partial(variant_attention, drop=drop, slopes_H=slopes_H)
        y_BTHK = attend(q_BTHK, k_BSHK, v_BSHK, start=start)
        return self.make_out(D, name="out")(y_BTHK.reshape(B, T, D))


class VariantBlock(nn.Module):
    """GPT-2's block with the given attention, MLP and norm."""

    make_attention: MakeModule
    make_mlp: MakeModule
    make_norm: MakeModule
    dropout_rate: float

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        drop = partial(Dropout(self.dropout_rate, name="dropout"), deterministic=not train)
        attention = self.make_attention(name="attention")
        h_BTD = self.make_norm(name="attention_norm")(x_BTD)
        x_BTD += drop(attention(h_BTD, start=start, train=train))
        x_BTD += drop(self.make_mlp(name="mlp")(self.make_norm(name="mlp_norm")(x_BTD)))
        return x_BTD


class TokenEmbed(TiedEmbed):
    """GPT-2's embeddings without those of positions."""

    def __call__(self, tokens_BT: jax.Array, start: Position) -> jax.Array:
        del start
        if self.context_length < (T := tokens_BT.shape[1]):
            raise ValueError(f"{T} tokens do not fit into a context of {self.context_length}")
        return self.token(tokens_BT)


class GPT2Variant(GPT2):
    """GPT-2 with the settings that experiments/default.py describes."""

    mlp_dim: int = 0
    positions: str = "learned"
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-5
    activation: str = "gelu"
    use_bias: bool = True
    query_key_norm: bool = False
    num_kv_heads: int = 0
    logit_soft_cap: float = 0.0
    tied_embeddings: bool = True
    zero_init: bool = False
    num_pair_embeddings: int = 0
    mup_base_dim: int = 0
    remat: bool = False  # Recomputes a block's activations in the backward pass.

    def setup(self) -> None:
        """Creates the layers.

        muP (Yang et al., 2021), with heads of one width: initial weights shrink with the square
        root of the width multiplier, and `head` divides by it, so that activations and logits keep
        their size as D grows. training/optimizer.py scales the learning rates.
        """
        self.width_multiplier = self.embed_dim / self.mup_base_dim if self.mup_base_dim else 1.0
        scale = 2 * self.num_layers * self.width_multiplier
        out_init = nn.initializers.normal(0.02 / scale**0.5)
        if self.zero_init:
            out_init = nn.initializers.zeros
        kernel_init = nn.initializers.normal(0.02 / self.width_multiplier**0.5)
        make_dense = partial(Dense, use_bias=self.use_bias, kernel_init=kernel_init)
        make_out = partial(make_dense, kernel_init=out_init)
        make_norm = partial(NORMS[self.norm], epsilon=self.norm_epsilon)
        if self.norm == "layer_norm":
            make_norm = partial(make_norm, use_bias=self.use_bias)
        make_attention = partial(
            VariantAttention,
            self.num_heads,
            self.context_length,
            make_dense,
            make_out,
            self.attention_dropout_rate,
            positions=self.positions,
            num_kv_heads=self.num_kv_heads,
            query_key_norm=make_norm if self.query_key_norm else None,
        )
        make_mlp = partial(VariantMlp, make_dense, make_out, self.activation, self.mlp_dim)
        sizes = self.vocab_size, self.context_length, self.embed_dim
        self.embed = (TiedEmbed if self.positions == "learned" else TokenEmbed)(*sizes)
        if self.num_pair_embeddings:
            self.pair_embed = PairEmbed(self.num_pair_embeddings, *sizes)
        self.dropout = Dropout(self.dropout_rate)
        self.block = [
            VariantBlock(make_attention, make_mlp, make_norm, self.dropout_rate)
            for _ in range(self.num_layers)
        ]
        self.final_norm = make_norm()
        if not self.tied_embeddings:
            self.logits = Dense(self.vocab_size, use_bias=False, kernel_init=init)

    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        return self.head(self.features(tokens_BT, start=start, train=train))

    def features(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        """Returns the residual stream after the last norm, [B, T, D]."""

        # nn.remat must not trace `start` and `train`: cuDNN's attention needs to know that the
        # text is read from its beginning.
        def apply_block(block: nn.Module, x_BTD: jax.Array) -> jax.Array:
            return block(x_BTD, start=start, train=train)

        if self.remat and not reference.is_forced():
            apply_block = nn.remat(apply_block)
        x_BTD = self.embed(tokens_BT, start)
        if self.num_pair_embeddings:
            x_BTD += self.pair_embed(tokens_BT, start)
        x_BTD = self.dropout(x_BTD, deterministic=not train)
        for block in self.block:
            x_BTD = apply_block(block, x_BTD)
        return self.final_norm(x_BTD)

    def head(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the logits [B, T, V] of `features`, or of a part of them."""
        if self.mup_base_dim:
            x_BTD /= self.width_multiplier
        logits_BTV = self.embed.unembed(x_BTD) if self.tied_embeddings else self.logits(x_BTD)
        if cap := self.logit_soft_cap:  # Limits them to +-cap by a tanh (Gemma 2, 2024).
            return cap * jnp.tanh(logits_BTV / cap)
        return logits_BTV
