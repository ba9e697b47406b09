"""Peak GFLOP/s of this machine's matrix products: `python -m benchmarks.peak LIBRARY`.

LIBRARY is jax or torch. Prints GFLOP/s by precision as a line of JSON: the fastest of a few shapes,
each at its fastest of several calls. The utilisation of a training step is relative to it.
"""

import json
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.rounds import seconds_of

# Rows, inner, columns: squares, and a batch of activations against a layer's weights.
SHAPES = [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 2048)]
TIMES = 5

# Takes the two factors and returns a function that multiplies them.
Prepare = Callable[[np.ndarray, np.ndarray], Callable[[], object]]


def max_gflops(prepare: Prepare) -> float:
    """Returns the GFLOP/s of the fastest product that `prepare(left, right)` returns."""
    rng = np.random.default_rng(0)
    best = 0.0
    for rows, inner, columns in SHAPES:
        left = rng.random((rows, inner), np.float32)
        right = rng.random((inner, columns), np.float32)
        product = prepare(left, right)
        product()  # Compiles.
        seconds = min(seconds_of(product) for _ in range(TIMES))
        best = max(best, 2e-9 * rows * inner * columns / seconds)
    return best


def jax_gflops() -> dict[str, float]:
    """Returns XLA's peak in float32, and in bfloat16 with float32 sums where it is fast."""
    import jax
    import jax.numpy as jnp

    from runtime import process

    process.configure_jax()
    multiply = jax.jit(lambda left, right: jnp.matmul(left, right, preferred_element_type="f4"))

    def prepare_in(dtype: str) -> Prepare:
        def prepare(left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
            factors = jnp.asarray(left, dtype), jnp.asarray(right, dtype)
            return lambda: multiply(*factors).block_until_ready()

        return prepare

    dtypes = ["float32", "bfloat16"] if process.has_fast_bfloat16() else ["float32"]
    return {dtype: max_gflops(prepare_in(dtype)) for dtype in dtypes}


def torch_gflops() -> dict[str, float]:
    """Returns PyTorch's peak in float32, with all cores."""
    import torch

    def prepare(left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
        factors = torch.from_numpy(left), torch.from_numpy(right)
        return lambda: torch.mm(*factors)

    return {"float32": max_gflops(prepare)}


def main(library: str) -> None:
    """Prints the GFLOP/s of `library` by precision."""
    print(json.dumps({"jax": jax_gflops, "torch": torch_gflops}[library]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
