"""Stage 2, scaled self-attention: a position looks back at the ones before it.

New here: positions; queries, keys and values; the causal mask; the 1/sqrt(K) scale; and the
keys and values kept between calls, so that generating a token does not read the text again.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models import cudnn, plain
from models.dense import Dense, product_with_rows

Initializer = Callable[..., jax.Array]
Drop = Callable[[jax.Array], jax.Array]
Position = int | jax.Array  # Where in the context the first token stands.


class TokenPositionEmbed(nn.Module):
    """What a token is plus where it stands."""

    vocab_size: int
    context_length: int
    embed_dim: int
    embedding_init: Initializer = nn.linear.default_embed_init
    learns_positions: bool = True  # Stage 5 has other ways to tell where a token stands.

    def setup(self):
        embed = dict(features=self.embed_dim, embedding_init=self.embedding_init)
        self.token = nn.Embed(self.vocab_size, **embed)
        if self.learns_positions:
            self.position = nn.Embed(self.context_length, **embed)

    def __call__(self, tokens_BT: jax.Array, start: Position) -> jax.Array:
        T = tokens_BT.shape[1]
        if self.context_length < T:
            raise ValueError(f"{T} tokens do not fit into a context of {self.context_length}")
        if not self.learns_positions:
            return self.token(tokens_BT)
        positions_1T = start + jnp.arange(T)[None]
        return self.token(tokens_BT) + self.position(positions_1T)

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits as products with the token embeddings: one matrix for both ways (stage 5)."""
        return product_with_rows(x_BTD, self.token.embedding)


class KeyValueCache(nn.Module):
    """Remembers the keys and values (or what else a module has of a token) of earlier calls while
    text is being generated.

    Asleep unless the caller makes the collection "cache" mutable. Then what comes in is written
    to positions start, start + 1, ... of as many as the caller's cache has, `context_length` if it
    gives none, and all of them come out; the causal mask hides those that are not written yet.
    """

    context_length: int

    @nn.compact
    def __call__(self, start: Position, **new: jax.Array) -> tuple[jax.Array, ...]:
        if self.is_initializing() or not self.is_mutable_collection("cache"):
            return tuple(new.values())
        return tuple(self._remember(name, x, start) for name, x in new.items())

    def _remember(self, name: str, new: jax.Array, start: Position) -> jax.Array:
        # Kept as [B, ..., S, K]: the product with one query then reads it as it lies.
        new = jnp.moveaxis(new, 1, -2)
        *leading, _, K = new.shape
        kept = self.variable(
            "cache", name, jnp.zeros, (*leading, self.context_length, K), new.dtype
        )
        kept.value = jax.lax.dynamic_update_slice_in_dim(kept.value, new, start, axis=-2)
        return jnp.moveaxis(kept.value, -2, 1)


def causal_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    start: Position = 0,
    drop: Drop | None = None,
    slopes: np.ndarray | None = None,
) -> jax.Array:
    """Mixes `value` rows by softmax(query . key / sqrt(K)), looking at the past only.

    Vaswani et al. (2017), section 3.2.1. query [B, T, ..., K], key and value [B, S, ..., K] give
    [B, T, ..., K]; the axes between are the caller's: none in stage 2, heads from stage 3 on.
    Query t stands at position start + t and sees the keys at 0 .. start + t. `drop` is applied
    to the weights, and `slopes` [...] of the heads times the distance are taken off the scores
    (dropout and ALiBi in stage 5).
    """
    T, S, K = query.shape[1], key.shape[1], query.shape[-1]
    # Scaled before the product: T x K numbers to divide, not T x S.
    scores = jnp.einsum("BT...K,BS...K->B...TS", query / K**0.5, key)
    distance_TS = start + jnp.arange(T)[:, None] - jnp.arange(S)[None, :]
    if slopes is not None:
        scores -= jnp.multiply.outer(slopes, distance_TS)[None]
    visible_TS = distance_TS >= 0
    scores = jnp.where(jnp.broadcast_to(visible_TS, scores.shape), scores, -jnp.inf)
    weights = jax.nn.softmax(scores)
    if drop:
        weights = drop(weights)
    return jnp.einsum("B...TS,BS...K->BT...K", weights, value)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    start: Position = 0,
    drop: Drop | None = None,
    slopes: np.ndarray | None = None,
) -> jax.Array:
    """`causal_attention` in the form that is soonest done; it differs in the order of sums.

    A text that is read from its beginning is cut into up to four blocks of queries, each with the
    keys up to its end: three quarters of what the mask hides is never computed. On a GPU one kernel
    does it all.
    """
    if plain.is_wanted() or not isinstance(start, int) or start:
        return causal_attention(query, key, value, start=start, drop=drop, slopes=slopes)
    if not drop and slopes is None and cudnn.can_attend(query):
        return cudnn.attend(query, key, value)
    T = query.shape[1]
    rows = max(-(-T // 4), 64)  # Shorter blocks cost more than they save.
    blocks = [
        causal_attention(
            query[:, first : first + rows],
            key[:, : first + rows],
            value[:, : first + rows],
            start=first,
            drop=drop,
            slopes=slopes,
        )
        for first in range(0, T, rows)
    ]
    return jnp.concatenate(blocks, axis=1)


class SelfAttention(nn.Module):
    """One causal head."""

    head_dim: int
    context_length: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array, *, start: Position = 0) -> jax.Array:
        q_BTK, k_BTK, v_BTK = (
            Dense(self.head_dim, use_bias=False, name=name)(x_BTD)
            for name in ("query", "key", "value")
        )
        past = KeyValueCache(self.context_length, name="past")
        k_BSK, v_BSK = past(start, key=k_BTK, value=v_BTK)
        return attend(q_BTK, k_BSK, v_BSK, start=start)


class SelfAttentionModel(nn.Module):
    """Embeddings, one head as wide as they are, and a linear map to the logits."""

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
