"""Stage 2, scaled dot-product self-attention: each position looks back at the ones before it.

New here: position embeddings; queries, keys and values; the causal mask; the 1/sqrt(K) scale.
From models/layers: `Dense`, Flax's linear layer x @ kernel + bias, made faster; `KeyValueCache`,
for generation; `in_query_blocks`, attention for a block of queries at a time; `expose`, the
identity, where look_inside.py reads the weights; `Position`, an int.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import Dense, KeyValueCache, Position, expose, in_query_blocks


def causal_scores(query: jax.Array, key: jax.Array, start: Position) -> jax.Array:
    """Returns query . key / sqrt(K) [B, ..., T, S], with -inf for keys after the query.

    The dots stand for axes that a later stage adds.
    """
    T, S, K = query.shape[1], key.shape[1], query.shape[-1]
    # Scaled before the product: T x K numbers to divide, not T x S.
    scores = jnp.einsum("BT...K,BS...K->B...TS", query / K**0.5, key)
    distance_TS = start + jnp.arange(T)[:, None] - jnp.arange(S)[None, :]
    is_past = jnp.broadcast_to(distance_TS >= 0, scores.shape)
    return jnp.where(is_past, scores, -jnp.inf)


@in_query_blocks  # The same result, computed faster: models/layers/attention.py.
def causal_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, start: Position = 0
) -> jax.Array:
    """Returns softmax(query . key / sqrt(K)) . value over the past (Vaswani et al., 2017, eq. 1).

    query [B, T, ..., K], key and value [B, S, ..., K]; query t stands at position start + t.
    """
    weights = expose(jax.nn.softmax(causal_scores(query, key, start)))
    return jnp.einsum("B...TS,BS...K->BT...K", weights, value)


class TokenPositionEmbed(nn.Module):
    """Embedding of a token plus that of its position."""

    vocab_size: int
    context_length: int
    embed_dim: int

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, start: Position) -> jax.Array:
        D, T = self.embed_dim, tokens_BT.shape[1]
        if self.context_length < T:
            raise ValueError(f"{T} tokens do not fit into a context of {self.context_length}")
        positions_1T = start + jnp.arange(T)[None]
        x_BTD = nn.Embed(self.vocab_size, D, name="token")(tokens_BT)
        return x_BTD + nn.Embed(self.context_length, D, name="position")(positions_1T)


class SelfAttention(nn.Module):
    """Causal attention with queries, keys and values that are linear maps of x, without biases."""

    head_dim: int
    context_length: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0) -> jax.Array:
        q_BTK, k_BTK, v_BTK = (
            Dense(self.head_dim, use_bias=False, name=name)(x_BTD)
            for name in ("query", "key", "value")
        )
        # In training, k and v as they are: S = T. In generation, after those of earlier calls.
        past = KeyValueCache(self.context_length, name="past")
        k_BSK, v_BSK = past(start, key=k_BTK, value=v_BTK)
        return causal_attention(q_BTK, k_BSK, v_BSK, start=start)


class SelfAttentionModel(nn.Module):
    """Embeddings, self-attention with K = D, and a linear map to the logits."""

    vocab_size: int
    context_length: int
    embed_dim: int

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, *, start: Position = 0, train: bool = False
    ) -> jax.Array:
        del train
        D, T = self.embed_dim, self.context_length
        x_BTD = TokenPositionEmbed(self.vocab_size, T, D, name="embed")(tokens_BT, start)
        y_BTK = SelfAttention(D, T, name="attention")(x_BTD, start=start)
        return Dense(self.vocab_size, name="logits")(y_BTK)
