"""Key/value cache: keeps keys and values of earlier tokens while text is generated.

Stored as [..., K, S] for one text, and as [B, ..., S, K] for several: the layouts that XLA's
products with one query read. It would transpose another as a whole for each token (docs/log.md).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Position = int | jax.Array  # Position of a call's first token in the context.


class KeyValueCache(nn.Module):
    """Arrays [B, T, ..., K] of this call together with those of earlier calls, [B, S, ..., K].

    Returns its arguments unless the caller makes the collection "cache" mutable. Then it writes
    them to positions start, start + 1, ... of the caller's cache, or of a new one with S =
    `context_length`, and returns the whole cache; the causal mask hides positions not yet written.
    """

    context_length: int

    @nn.compact
    def __call__(self, start: Position, **new: jax.Array) -> tuple[jax.Array, ...]:
        if self.is_initializing() or not self.is_mutable_collection("cache"):
            return tuple(new.values())
        return tuple(self._update(name, x, start) for name, x in new.items())

    def _update(self, name: str, new: jax.Array, start: Position) -> jax.Array:
        B, _, *rest = new.shape
        shape = (B, self.context_length, *rest)
        cached = self.variable("cache", name, lambda: _stored(jnp.zeros(shape, new.dtype)))
        axis = -2 if B > 1 else -1
        cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, _stored(new), start, axis)
        return _read(cached.value, B)


def change_cache(cache: Any, num_texts: int, function: Callable[[jax.Array], jax.Array]) -> Any:
    """Returns the cache of `num_texts` with `function` applied to each array [B, S, ..., K].

    It may change the number of texts or of positions.
    """
    return jax.tree.map(lambda stored: _stored(function(_read(stored, num_texts))), cache)


def _stored(x: jax.Array) -> jax.Array:
    """Returns an array [B, S, ..., K] as it is stored."""
    return jnp.moveaxis(x, 1, -2) if len(x) > 1 else jnp.moveaxis(x[0], 0, -1)


def _read(stored: jax.Array, num_texts: int) -> jax.Array:
    """Returns what is stored for `num_texts` as [B, S, ..., K]."""
    return jnp.moveaxis(stored, -2, 1) if num_texts > 1 else jnp.moveaxis(stored, -1, 0)[None]
