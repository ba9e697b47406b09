"""Key/value cache: keeps keys and values of earlier tokens while text is generated."""

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
        # Stored as [B, ..., S, K]: the product with one query then reads contiguous memory.
        new = jnp.moveaxis(new, 1, -2)
        *leading, _, K = new.shape
        shape = (*leading, self.context_length, K)
        cached = self.variable("cache", name, jnp.zeros, shape, new.dtype)
        cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, new, start, axis=-2)
        return jnp.moveaxis(cached.value, -2, 1)
