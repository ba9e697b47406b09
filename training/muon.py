"""Muon's update: momentum made nearly orthogonal, so that it moves a matrix as far in every
direction (Jordan et al., 2024).

optax.contrib.muon does the same in float32 and with a transpose in each product; on a CPU that is
a third of a small model's training step, and this less than half of that: docs/log.md.
"""

import jax
import jax.numpy as jnp
import optax

# Of Jordan et al. (2024): steepest at 0 of those that leave singular values between 0.7 and 1.2.
COEFFICIENTS = 3.4445, -4.7750, 2.0315
NUM_ITERATIONS = 5


def scale_by_muon(momentum: float) -> optax.GradientTransformation:
    """Nesterov's momentum of each kernel [D, F], made orthogonal, times sqrt(max(1, F / D)).

    Every leaf has to be a matrix; `optax.partition` sees to that.
    """

    def update_fn(updates, state, params=None):
        del params
        return jax.tree.map(_step_of, updates), state

    whitening = optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)
    return optax.chain(optax.trace(momentum, nesterov=True), whitening)


def _step_of(momentum_DF: jax.Array) -> jax.Array:
    D, F = momentum_DF.shape
    return orthogonalize(momentum_DF) * max(1.0, F / D) ** 0.5


def orthogonalize(matrix: jax.Array) -> jax.Array:
    """U V' of the singular value decomposition U S V', about: its singular values lie around 1.

    By iterations of a polynomial of the matrix, of degree 5, whose products have factors of
    bfloat16 where those of the model do.
    """
    rows, columns = matrix.shape
    linear, cubic, quintic = COEFFICIENTS
    # No singular value above 1, where the iteration would diverge.
    x = matrix / (jnp.linalg.norm(matrix) + 1e-8)
    # Squares are taken along the longer axis, which leaves the smaller one of the two.
    longer = 1 if rows <= columns else 0
    for _ in range(NUM_ITERATIONS):
        square = _dot(x, x, longer, longer)
        inner = cubic * square + quintic * _dot(square, square, 1, 0)
        rest = _dot(inner, x, 1, 0) if longer else _dot(x, inner, 1, 0)
        x = linear * x + rest
    return x


def _dot(a: jax.Array, b: jax.Array, axis_of_a: int, axis_of_b: int) -> jax.Array:
    """Sums of float32 along an axis of each; an axis named spares a transpose."""
    rounded = jax.config.jax_default_matmul_precision == "bfloat16"
    dtype = jnp.bfloat16 if rounded else jnp.float32
    contract = (((axis_of_a,), (axis_of_b,)), ((), ()))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), contract, preferred_element_type=jnp.float32
    )
