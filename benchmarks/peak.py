"""How fast this machine multiplies matrices: `python -m benchmarks.peak LIBRARY`, jax or torch.

Prints GFLOP/s by precision as a line of JSON: the largest over a few shapes, each at its best of
several times. What a training step achieves is set against it.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np

# Rows, inner, columns: squares, and a batch of activations against a layer's weights.
SHAPES = [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 2048)]
TIMES = 5


def largest(product_of: Callable[[np.ndarray, np.ndarray], Callable[[], object]]) -> float:
    """GFLOP/s of the product that `product_of(left, right)` makes ready, at its best."""
    rng = np.random.default_rng(0)
    best = 0.0
    for rows, inner, columns in SHAPES:
        left = rng.random((rows, inner), np.float32)
        right = rng.random((inner, columns), np.float32)
        product = product_of(left, right)
        product()  # Compiles.
        for _ in range(TIMES):
            started = time.perf_counter()
            product()
            seconds = time.perf_counter() - started
            best = max(best, 2e-9 * rows * inner * columns / seconds)
    return best


def of_jax() -> dict[str, float]:
    """XLA's float32; and bfloat16 factors with float32 sums, where a run would use them."""
    import jax
    import jax.numpy as jnp

    from runtime import process

    process.configure_jax()
    multiply = jax.jit(lambda left, right: jnp.matmul(left, right, preferred_element_type="f4"))

    def product_in(dtype: str) -> Callable[[np.ndarray, np.ndarray], Callable[[], object]]:
        def product_of(left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
            factors = jnp.asarray(left, dtype), jnp.asarray(right, dtype)
            return lambda: multiply(*factors).block_until_ready()

        return product_of

    dtypes = ["float32", "bfloat16"] if process.has_fast_bfloat16() else ["float32"]
    return {dtype: largest(product_in(dtype)) for dtype in dtypes}


def of_torch() -> dict[str, float]:
    """PyTorch's float32, with all cores."""
    import torch

    def product_of(left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
        factors = torch.from_numpy(left), torch.from_numpy(right)
        return lambda: torch.mm(*factors)

    return {"float32": largest(product_of)}


def main(library: str) -> None:
    print(json.dumps({"jax": of_jax, "torch": of_torch}[library]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
