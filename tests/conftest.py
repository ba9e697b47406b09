"""What all tests share: strict shapes in this process."""

import jax

# A sum of shapes [T] and [B, T] is an error, not a broadcast: the commonest shape bug.
jax.config.update("jax_numpy_rank_promotion", "raise")
