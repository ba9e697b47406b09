"""The layout over the devices: parameters on each of them, a batch split among them.

Whatever JAX finds is used: one CPU, one GPU, or all the GPUs of a node. XLA adds the sum of
gradients over devices by itself, from where the arrays lie.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Floating-point operations a second of one device, by its name in JAX, in dense products of
# bfloat16 factors: the makers' data sheets (NVIDIA's list twice as many, with sparsity, for H100
# and H200; TPUs' are of Google Cloud's pages).
PEAK_FLOPS = {
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


def peak_flops(mesh: Mesh) -> float | None:
    """Returns the operations a second of all devices of `mesh` at their peak; None if unknown."""
    kinds = [device.device_kind for device in mesh.devices.flat]
    if not all(kind in PEAK_FLOPS for kind in kinds):
        return None
    return sum(PEAK_FLOPS[kind] for kind in kinds)


def data_mesh(*batch_sizes: int) -> Mesh:
    """As many of the devices as divide every one of `batch_sizes`, on one axis "data"."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if all(size % n == 0 for size in batch_sizes))
    return Mesh(np.asarray(devices[:count]), ("data",))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """`tree` with a copy of each array on each device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_batches(batches: np.ndarray, mesh: Mesh) -> jax.Array:
    """Batches [K, B, ...] with B divided among the devices."""
    return jax.device_put(batches, NamedSharding(mesh, PartitionSpec(None, "data")))


def send_ahead(
    chunks: Iterator[tuple[int, np.ndarray]], mesh: Mesh
) -> Iterator[tuple[int, jax.Array]]:
    """Yields (first_step, batches [K, B, ...]) on the devices, each after the next has been sent.

    A copy to a GPU then takes place while the device works on the batches before.
    """
    sent = ((first, split_batches(batches, mesh)) for first, batches in chunks)
    ahead = next(sent, None)
    while ahead is not None:
        now, ahead = ahead, next(sent, None)
        yield now
