"""Stage 3, multi-head self-attention: H small heads side by side, each with a view of its own.

New here: the head axis and the output projection that joins what the heads found. The attention
itself is stage 2's.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.dense import Dense
from models.dropout import Dropout
from models.self_attention import (
    Initializer,
    KeyValueCache,
    Position,
    TokenPositionEmbed,
    attend,
)


class MultiHeadAttention(nn.Module):
    """H heads of K = D / H each, their outputs concatenated and projected.

    Vaswani et al. (2017), section 3.2.2.
    """

    num_heads: int
    context_length: int
    # Neutral here; stage 5 turns them on.
    use_bias: bool = False
    dropout_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.lecun_normal()
    out_init: Initializer = nn.initializers.lecun_normal()
    num_kv_heads: int = 0  # Of keys and values; 0: as many as there are queries.
    query_key_norm: Callable[..., nn.Module] | None = None
    rotate: Callable[[jax.Array, Position], jax.Array] | None = None
    slopes: Callable[[int], np.ndarray] | None = None

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        B, T, D = x_BTD.shape
        H, K = self.num_heads, D // self.num_heads
        G = self.num_kv_heads or H

        def heads(name: str, count: int) -> jax.Array:
            dense = Dense(
                count * K, use_bias=self.use_bias, kernel_init=self.kernel_init, name=name
            )
            return dense(x_BTD).reshape(B, T, count, K)

        q_BTHK, k_BTGK, v_BTGK = heads("query", H), heads("key", G), heads("value", G)
        if self.query_key_norm:
            q_BTHK = self.query_key_norm(name="query_norm")(q_BTHK)
            k_BTGK = self.query_key_norm(name="key_norm")(k_BTGK)
        if self.rotate:
            q_BTHK, k_BTGK = self.rotate(q_BTHK, start), self.rotate(k_BTGK, start)
        past = KeyValueCache(self.context_length, name="past")
        k_BSGK, v_BSGK = past(start, key=k_BTGK, value=v_BTGK)
        k_BSHK, v_BSHK = k_BSGK, v_BSGK
        if G < H:  # H / G neighbours share a key and a value (Ainslie et al., 2023).
            k_BSHK, v_BSHK = (jnp.repeat(x, H // G, axis=2) for x in (k_BSGK, v_BSGK))
        drop = None
        if train and self.dropout_rate:
            drop = partial(Dropout(self.dropout_rate), deterministic=False)
        slopes_H = self.slopes and self.slopes(H)
        y_BTHK = attend(q_BTHK, k_BSHK, v_BSHK, start=start, drop=drop, slopes=slopes_H)
        out = Dense(D, use_bias=self.use_bias, kernel_init=self.out_init, name="out")
        return out(y_BTHK.reshape(B, T, D))


class MultiHeadAttentionModel(nn.Module):
    """Stage 2's model with several heads in place of one."""

    vocab_size: int
    context_length: int
    embed_dim: int
    num_heads: int

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        D, T = self.embed_dim, self.context_length
        x_BTD = TokenPositionEmbed(self.vocab_size, T, D, name="embed")(tokens_BT, start)
        attention = MultiHeadAttention(self.num_heads, T, name="attention")
        return Dense(self.vocab_size, name="logits")(attention(x_BTD, start=start, train=train))
