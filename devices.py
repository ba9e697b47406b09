"""The layout over the devices: parameters on each of them, a batch split among them.

Whatever JAX finds is used: one CPU, one GPU, or all the GPUs of a node. XLA adds the sum of
gradients over devices by itself, from where the arrays lie.
"""

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
