"""The layout over the devices: parameters on each of them, a batch split among them.

Whatever JAX finds is used: one CPU, one GPU, or all the GPUs of a node. XLA adds the sum of
gradients over devices by itself, from where the arrays lie.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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
