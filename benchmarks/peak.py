"""Peak GFLOP/s of this machine's matrix products: `python -m benchmarks.peak LIBRARY`.

LIBRARY is jax or torch. Prints GFLOP/s by precision as a line of JSON: the fastest of a few shapes,
each at its fastest of several calls. The utilisation of a training step is relative to it.
"""

import json
import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from runtime import devices, peak, process

# Rows, inner, columns: squares, and a batch of activations against a layer's weights.
SHAPES = [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 2048)]


def jax_gflops() -> dict[str, float]:
    """Returns XLA's peak in float32, and in bfloat16 with float32 sums where it is fast."""
    process.configure_jax()
    mesh = devices.data_mesh(1)
    dtypes = ["float32", "bfloat16"] if process.has_fast_bfloat16() else ["float32"]
    return {
        dtype: 1e-9 * peak.fastest(partial(peak.prepare, mesh, dtype), SHAPES) for dtype in dtypes
    }


def torch_gflops() -> dict[str, float]:
    """Returns PyTorch's peak in float32, with all cores."""
    import torch

    def prepare(left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
        factors = torch.from_numpy(left), torch.from_numpy(right)
        return lambda: torch.mm(*factors)

    return {"float32": 1e-9 * peak.fastest(prepare, SHAPES)}


def main(library: str) -> None:
    """Prints the GFLOP/s of `library` by precision."""
    print(json.dumps({"jax": jax_gflops, "torch": torch_gflops}[library]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
