"""Peak FLOP/s of devices: published by their makers, or measured once on a machine."""

import os
import time
from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from runtime import devices, programs

# Floating-point operations a second of one device, by its name in JAX, in dense products of
# bfloat16 factors: the makers' data sheets (NVIDIA's list twice as many, with sparsity, for H100
# and H200; TPUs' are of Google Cloud's pages).
PUBLISHED = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
# Rows of the measured squares: on a CPU a fifth of a second for all calls.
CPU_SIZE, SIZE = 1024, 4096
CALLS = 5

# Takes the two factors and returns a function that multiplies them, and waits.
Prepare = Callable[[np.ndarray, np.ndarray], Callable[[], object]]


def published(mesh: Mesh) -> float | None:
    """Returns the operations a second of all devices of `mesh` at their peak; None if unknown."""
    kinds = [device.device_kind for device in mesh.devices.flat]
    if not all(kind in PUBLISHED for kind in kinds):
        return None
    return sum(PUBLISHED[kind] for kind in kinds)


def measured(mesh: Mesh, precision: str) -> float:
    """Returns the same as `published`, measured in products of `precision` and kept."""
    # A worker of a sweep has its share of the cores.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    key = f"{mesh.size} devices, {cores} cores, {precision}"
    return programs.cached("peak_flops", key, (), partial(measure, mesh, precision))


def measure(mesh: Mesh, precision: str) -> float:
    """Measures the operations a second of all devices of `mesh`."""
    size = CPU_SIZE if mesh.devices.flat[0].platform == "cpu" else SIZE
    return fastest(partial(prepare, mesh, precision), [(mesh.size * size, size, size)])


def prepare(mesh: Mesh, dtype: str, left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
    """Returns XLA's product of factors of `dtype`, the left one's rows split over the devices."""
    split = NamedSharding(mesh, PartitionSpec("data"))
    factors = (
        jax.device_put(left.astype(dtype), split),
        devices.replicate(right.astype(dtype), mesh),
    )
    multiply = jax.jit(lambda left, right: jnp.matmul(left, right, preferred_element_type="f4"))
    return lambda: multiply(*factors).block_until_ready()


def fastest(prepare: Prepare, shapes: Iterable[tuple[int, int, int]]) -> float:
    """Returns the FLOP/s of the fastest product `prepare(left, right)` of several shapes and calls.

    A shape has rows, inner and columns.
    """
    rng = np.random.default_rng(0)
    best = 0.0
    for rows, inner, columns in shapes:
        left = rng.random((rows, inner), np.float32)
        right = rng.random((inner, columns), np.float32)
        product = prepare(left, right)
        product()  # Compiles.
        for _ in range(CALLS):
            started = time.perf_counter()
            product()
            seconds = time.perf_counter() - started
            best = max(best, 2 * rows * inner * columns / seconds)
    return best
