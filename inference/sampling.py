"""Sampling of a token from logits: temperature, top-k and top-p."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from runtime import errors

# Below this temperature logits lose the digits by which they differ, and overflow at last.
GREEDY = 1e-5


class Sampling(NamedTuple):
    """Sampling settings, applied in this order."""

    temperature: float = 1.0  # Divides the logits; 0 is greedy.
    top_k: int = 0  # Keeps the k likeliest tokens; 0 is no limit.
    top_p: float = 1.0  # Keeps the likeliest tokens up to this total probability.

    def check(self, prefix: str) -> "Sampling":
        """Returns itself. Raises UserError for a value out of range; `prefix` precedes its name."""
        if not 0 <= self.temperature < float("inf"):
            raise errors.UserError(f"{prefix}temperature={self.temperature}: expected 0 or more")
        if self.top_k < 0:
            raise errors.UserError(f"{prefix}top_k={self.top_k}: expected 0 (no limit) or more")
        if not 0 < self.top_p <= 1:
            raise errors.UserError(f"{prefix}top_p={self.top_p}: expected above 0 and at most 1")
        return self


def sample_token(sampling: Sampling, logits_V: jax.Array, rng: jax.Array) -> jax.Array:
    """Returns one token id."""
    if sampling.temperature < GREEDY:
        return jnp.argmax(logits_V)
    return jax.random.categorical(rng, limit_logits(sampling, logits_V))


def limit_logits(sampling: Sampling, logits_V: jax.Array) -> jax.Array:
    """Returns logits over the temperature, -inf outside top-k and top-p (Holtzman et al., 2019)."""
    logits_V = logits_V / sampling.temperature
    if sampling.top_k:
        kth = jax.lax.top_k(logits_V, min(sampling.top_k, len(logits_V)))[0][-1]
        logits_V = jnp.where(logits_V < kth, -jnp.inf, logits_V)
    if sampling.top_p < 1:
        descending_V = jnp.sort(logits_V, descending=True)
        before_V = jnp.cumsum(jax.nn.softmax(descending_V)) - jax.nn.softmax(descending_V)
        # A token stays if the likelier ones hold less than top_p; the likeliest always stays.
        least = jnp.min(descending_V, where=before_V < sampling.top_p, initial=jnp.inf)
        logits_V = jnp.where(logits_V < least, -jnp.inf, logits_V)
    return logits_V
