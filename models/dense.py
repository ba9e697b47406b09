"""The linear map that every stage from the second on is made of, as one plain matrix product.

`nn.Dense` on [B, T, D] asks XLA for a product over three axes; on a CPU its backward pass then
copies the output gradient into another order. Flattened to [B*T, D] the result is the same and a
training step of stage 4 takes 8 % less time (benchmarks/, docs/log.md).
"""

from functools import partial

import jax
from flax import linen as nn


def product(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """`x @ kernel` for x [..., D] and kernel [D, F]: the form that `nn.Dense` calls it in.

    The further arguments of `jax.lax.dot_general` say what a Dense always asks for: contract the
    last axis of x with the first of the kernel, at default precision.
    """
    D, F = kernel.shape
    return jax.lax.dot(x.reshape(-1, D), kernel).reshape(*x.shape[:-1], F)


Dense = partial(nn.Dense, dot_general=product)
