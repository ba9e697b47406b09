"""Dense layers with a custom VJP whose matmul layouts are fast on a CPU.

`nn.Dense` on [B, T, D] asks XLA for products over three axes; docs/log.md has the times of the
layouts here, forward and backward.

Under `jax.default_matmul_precision("bfloat16")` the factors are rounded to bfloat16 and summed in
float32, in half the time on processors with instructions for it. All else stays float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import reference, target


def product(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """Returns `x @ kernel` for x [..., D] and kernel [D, F].

    Ignores the other arguments of `jax.lax.dot_general`, with which `nn.Dense` calls it: they
    always contract the last axis of x with the first of the kernel.
    """
    if reference.is_forced():
        return x @ kernel
    return _product(x, kernel, jnp.bfloat16 if target.is_bfloat16() else jnp.float32)


def tied_logits(x: jax.Array, embedding: jax.Array) -> jax.Array:
    """Returns the logits of a tied head, `x @ embedding.T`, for x [..., D] and embedding [V, D].

    In float32 on a CPU, which has no bfloat16 product for this layout (docs/log.md).
    """
    if reference.is_forced():
        return jnp.einsum("...D,VD->...V", x, embedding)
    if target.current().platform == "cpu":
        return _product(x, embedding.T, jnp.float32)
    return product(x, embedding.T)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return _forward(x, kernel, dtype)[0]


def _forward(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype):
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    # [B T, D]: the product over [B, T, D] takes longer.
    y = _dot(_rows(x), kernel, contract=((1,), (0,)))
    return y.reshape(*x.shape[:-1], -1), (x, kernel)


def _backward(dtype: jnp.dtype, factors: tuple[jax.Array, jax.Array], dy: jax.Array):
    x, kernel = factors
    dy = dy.astype(dtype)
    # Contracts the kernel's second axis: its transpose would take longer.
    dx = _dot(_rows(dy), kernel, contract=((1,), (1,)))
    # Over [B, T, D], dy first, then a transpose: faster. XLA copies the first factor transposed, so
    # a much wider dy comes second; in bfloat16 on a CPU alone, for no GPU was at hand to time it.
    # The barrier keeps XLA from folding a transpose into the product.
    leading = tuple(range(x.ndim - 1))
    on_cpu = target.current().platform == "cpu"
    is_wide = (on_cpu or dtype == jnp.float32) and 2 * x.shape[-1] <= dy.shape[-1]
    factors = (x, dy) if is_wide else (dy, x)
    dkernel = jax.lax.optimization_barrier(_dot(*factors, contract=(leading, leading)))
    return dx.reshape(x.shape), dkernel if is_wide else dkernel.T


_product.defvjp(_forward, _backward)


def _rows(x: jax.Array) -> jax.Array:
    """Returns [..., D] as [N, D]."""
    return x.reshape(-1, x.shape[-1])


def _dot(a: jax.Array, b: jax.Array, contract: tuple) -> jax.Array:
    return jax.lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=jnp.float32)


Dense = partial(nn.Dense, dot_general=product)
