"""Stage 3, multi-head self-attention: H heads in parallel, each of width K = D / H.

New here: the head axis, in place of stage 2's dots, and the output projection. Stage 2's attention
is one head, with K = D.
"""

import jax
from flax import linen as nn

from models.layers import Dense, KeyValueCache, Position
from models.self_attention import TokenPositionEmbed, causal_attention


class MultiHeadAttention(nn.Module):
    """H heads of K = D / H each, concatenated and projected (Vaswani et al., 2017, 3.2.2)."""

    num_heads: int
    context_length: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0) -> jax.Array:
        B, T, D = x_BTD.shape
        H = self.num_heads
        q_BTHK, k_BTHK, v_BTHK = (
            Dense(D, use_bias=False, name=name)(x_BTD).reshape(B, T, H, D // H)
            for name in ("query", "key", "value")
        )
        past = KeyValueCache(self.context_length, name="past")
        k_BSHK, v_BSHK = past(start, key=k_BTHK, value=v_BTHK)
        y_BTHK = causal_attention(q_BTHK, k_BSHK, v_BSHK, start=start)
        return Dense(D, use_bias=False, name="out")(y_BTHK.reshape(B, T, D))


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
        del train
        D, T = self.embed_dim, self.context_length
        x_BTD = TokenPositionEmbed(self.vocab_size, T, D, name="embed")(tokens_BT, start)
        attention = MultiHeadAttention(self.num_heads, T, name="attention")
        return Dense(self.vocab_size, name="logits")(attention(x_BTD, start=start))
