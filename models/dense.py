"""The linear map that every stage from the second on is made of, as one plain matrix product.

`nn.Dense` on [B, T, D] asks XLA for a product over three axes; on a CPU its backward pass then
copies the output gradient into another order. Flattened to [B*T, D] the result is the same, sooner.

Under `jax.default_matmul_precision("bfloat16")` the factors are rounded to bfloat16 and summed in
float32, which processors with instructions for it do twice as fast. Weights, activations and
gradients stay float32 everywhere else.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn


def product(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """`x @ kernel` for x [..., D] and kernel [D, F]: the form that `nn.Dense` calls it in.

    The further arguments of `jax.lax.dot_general` say what a Dense always asks for: contract the
    last axis of x with the first of the kernel.
    """
    if jax.config.jax_default_matmul_precision == "bfloat16":
        return bfloat16_product(x, kernel)
    return float32_product(x, kernel)


def float32_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` for x [..., D] and kernel [D, F]."""
    return jax.lax.dot(flat(x), kernel).reshape(*x.shape[:-1], -1)


def flat(x: jax.Array) -> jax.Array:
    """[..., D] as [N, D]."""
    return x.reshape(-1, x.shape[-1])


@jax.custom_vjp
def bfloat16_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` of factors rounded to bfloat16, in float32; its gradients likewise."""
    return forward(x, kernel)[0]


def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = jax.lax.dot(
        flat(x.astype(jnp.bfloat16)), kernel.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )
    return y.reshape(*x.shape[:-1], -1), (x, kernel)


def backward(factors: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel, dy = (factor.astype(jnp.bfloat16) for factor in (*factors, dy))
    dx = jax.lax.dot(flat(dy), kernel.T, preferred_element_type=jnp.float32)
    # Over the axes as they came: XLA's sum over one long axis of rows takes twice as long.
    rows = tuple(range(x.ndim - 1))
    sum_over_rows = ((rows, rows), ((), ()))
    dkernel = jax.lax.dot_general(x, dy, sum_over_rows, preferred_element_type=jnp.float32)
    return dx.reshape(x.shape), dkernel


bfloat16_product.defvjp(forward, backward)

Dense = partial(nn.Dense, dot_general=product)
