"""Key/value cache: what attention needs of the tokens before, kept while text is generated."""

import jax
import jax.numpy as jnp
from flax import linen as nn

Position = int | jax.Array  # Place in the context of the first token of a call.


class KeyValueCache(nn.Module):
    """Keys and values (or what else a module has of a token) of earlier calls.

    Does nothing unless the caller makes the collection "cache" mutable. Then what comes in is
    written to positions start, start + 1, ... of as many as the caller's cache has,
    `context_length` if it gives none, and all of them come out; the causal mask hides those that
    are not written yet.
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
