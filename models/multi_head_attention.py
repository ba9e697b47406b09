"""Stage 3, multi-head self-attention: H small heads side by side, each with a view of its own.

New here: the head axis and the output projection that joins what the heads found. The attention
itself is stage 2's.
"""

from functools import partial

import jax
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

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0, train: bool = False) -> jax.Array:
        B, T, D = x_BTD.shape
        H, K = self.num_heads, D // self.num_heads

        def heads(name: str) -> jax.Array:
            dense = Dense(D, use_bias=self.use_bias, kernel_init=self.kernel_init, name=name)
            return dense(x_BTD).reshape(B, T, H, K)

        q_BTHK, k_BTHK, v_BTHK = heads("query"), heads("key"), heads("value")
        k_BSHK, v_BSHK = KeyValueCache(self.context_length, name="past")(k_BTHK, v_BTHK, start)
        drop = None
        if train and self.dropout_rate:
            drop = partial(Dropout(self.dropout_rate), deterministic=False)
        y_BTHK = attend(q_BTHK, k_BSHK, v_BSHK, start=start, drop=drop)
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
