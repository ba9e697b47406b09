"""Muon (Jordan et al., 2024): momentum, orthogonalized by a Newton-Schulz iteration.

optax.contrib.muon does the same in float32 and with a transpose in each product. On a CPU that
takes a third of a small model's training step, and this less than half of that: docs/log.md.
"""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from models.layers import target
from runtime import devices
from runtime.devices import AXES

# Of Jordan et al. (2024): the steepest at 0 that leaves singular values between 0.7 and 1.2.
COEFFICIENTS = 3.4445, -4.7750, 2.0315
NUM_ITERATIONS = 5


def scale_by_muon(momentum: float) -> optax.GradientTransformation:
    """Returns Muon's transformation: each kernel's [D, F] Nesterov momentum, orthogonalized and
    multiplied by sqrt(max(1, F / D)).

    Every leaf has to be a matrix; `optax.partition` sees to that.
    """

    def update_fn(updates, state, params=None):
        del params
        if devices.is_laid_out():
            return _spread_steps(updates), state
        leaves, tree = jax.tree.flatten(updates)
        steps = devices.shared_by_halves(_scaled_step, leaves)
        return jax.tree.unflatten(tree, steps), state

    orthogonalization = optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)
    return optax.chain(optax.trace(momentum, nesterov=True), orthogonalization)


def _spread_steps(momenta: optax.Updates) -> optax.Updates:
    """Returns `_scaled_step` of each leaf, computed by one of the devices of the mesh.

    A step needs a whole matrix. Matrices of one shape are stacked, and the stack is divided over
    all devices; each takes the steps of its own.
    """
    leaves, tree = jax.tree.flatten(momenta)
    steps: list[jax.Array] = [*leaves]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, leaf in enumerate(leaves):
        by_shape.setdefault(leaf.shape, []).append(place)
    for places in by_shape.values():
        stack_NDF = _divided(jnp.stack([leaves[place] for place in places]))
        stack_NDF = _divided(jax.vmap(_scaled_step)(stack_NDF))
        for place, step_DF in zip(places, stack_NDF, strict=True):
            steps[place] = step_DF
    return jax.tree.unflatten(tree, steps)


def _divided(stack_NDF: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(stack_NDF, PartitionSpec(AXES))


def _scaled_step(momentum_DF: jax.Array) -> jax.Array:
    D, F = momentum_DF.shape
    return orthogonalize(momentum_DF) * max(1.0, F / D) ** 0.5


def orthogonalize(matrix: jax.Array) -> jax.Array:
    """Returns U V' of the singular value decomposition U S V', approximately.

    The singular values of the result lie between 0.7 and 1.2. Runs a quintic Newton-Schulz
    iteration, in bfloat16 where the model's products are in bfloat16.
    """
    rows, columns = matrix.shape
    linear, cubic, quintic = COEFFICIENTS
    # No singular value above 1, where the iteration would diverge.
    x = matrix / (jnp.linalg.norm(matrix) + 1e-8)
    # x x' or x' x, whichever is smaller.
    longer = 1 if rows <= columns else 0
    for _ in range(NUM_ITERATIONS):
        square = _dot(x, x, longer, longer)
        inner = cubic * square + quintic * _dot(square, square, 1, 0)
        rest = _dot(inner, x, 1, 0) if longer else _dot(x, inner, 1, 0)
        x = linear * x + rest
    return x


def _dot(a: jax.Array, b: jax.Array, axis_of_a: int, axis_of_b: int) -> jax.Array:
    """Returns the product summed over one axis of each in float32; it needs no transpose."""
    dtype = jnp.bfloat16 if target.is_bfloat16() else jnp.float32
    contract = (((axis_of_a,), (axis_of_b,)), ((), ()))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), contract, preferred_element_type=jnp.float32
    )
