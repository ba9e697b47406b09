"""The mesh of devices that a run or a command computes on, and the batches laid out over it.

Whatever JAX finds is used: one CPU, one GPU, or all the GPUs of a node. models/sharding.py says
what the axes of a mesh divide; each divides batches, but for "tensor".
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from runtime import process
from runtime.errors import UserError

AXES = "data", "fsdp", "tensor"
BATCH = "data", "fsdp"  # The axes that divide a batch.
HALVES = "halves"  # The axis of `halves`, which is no mesh of a run.


def mesh_of(sizes: Mapping[str, int], devices: Sequence[jax.Device]) -> Mesh:
    """Returns the mesh of a config's `mesh`, the number of `devices` on each axis.

    -1 stands for all that the other axes leave. Raises UserError for sizes that the devices do not
    have, or that leave some of them over unless every size is given.
    """
    given = ", ".join(f"--config.mesh.{axis}={sizes[axis]}" for axis in AXES)
    open_axes = [axis for axis in AXES if sizes[axis] == -1]
    if len(open_axes) > 1:
        raise UserError(f"{given}: expected -1 on one axis at most")
    if jax.process_count() > 1 and not open_axes and math.prod(sizes.values()) != len(devices):
        raise UserError(
            f"{given}: expected the {len(devices)} devices of all {jax.process_count()} processes, "
            "or -1 on one axis"
        )
    counts = {axis: sizes[axis] for axis in AXES}
    taken = math.prod(count for count in counts.values() if count != -1)
    if taken > len(devices):
        raise UserError(f"{given}: JAX has {len(devices)} devices, not {taken}: lower one of them")
    if open_axes:
        if len(devices) % taken:
            raise UserError(
                f"{given}: {taken} does not divide JAX's {len(devices)} devices: expected a "
                f"divisor, or a number of devices in place of -1"
            )
        counts[open_axes[0]] = len(devices) // taken
    shape = [counts[axis] for axis in AXES]
    return Mesh(np.asarray(devices[: math.prod(shape)]).reshape(shape), AXES)


def found() -> list[jax.Device]:
    """Returns the devices of all processes, without the second one of `halves`."""
    devices = jax.devices()
    return devices[:1] if process.has_halves() and devices[0].platform == "cpu" else devices


def halves(mesh: Mesh) -> Mesh | None:
    """Returns two devices of one CPU on the axis HALVES, where a run's `mesh` is that CPU.

    None for every other mesh, and where configure_jax has not made two devices of the CPU.
    """
    if not process.has_halves() or mesh.devices.flat[0].platform != "cpu":
        return None
    if list(mesh.devices.flat) != jax.devices("cpu")[:1]:
        return None
    return Mesh(np.asarray(jax.devices("cpu")), (HALVES,))


def half() -> jax.Array | None:
    """Returns which half of a batch a program computes, 0 or 1; None for one that computes all."""
    divides = HALVES in jax.sharding.get_abstract_mesh().axis_names
    return jax.lax.axis_index(HALVES) if divides else None


def is_laid_out() -> bool:
    """Returns True in a program that JAX divides among the devices of a run's mesh.

    A program of halves says itself what each device computes.
    """
    return not jax.sharding.get_abstract_mesh().empty and half() is None


def mean_of_halves(tree: Any) -> Any:
    """Returns the means over both halves of a batch; `tree` in a program that computes all.

    As one vector, for each reduction costs as much as a small product.
    """
    if half() is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    vector = jax.lax.pmean(jnp.concatenate([leaf.ravel() for leaf in leaves]), HALVES)
    return jax.tree.unflatten(structure, parts_of(vector, [leaf.shape for leaf in leaves]))


def shared_by_halves(function: Callable[[Any], jax.Array], arrays: Sequence[Any]) -> list[Any]:
    """Returns `function` of each array, which has the array's shape; a half computes half of them.

    A program that halves do not divide computes all.
    """
    if half() is None or len(arrays) < 2:
        return [function(array) for array in arrays]
    # The largest first, each to the half that has less to do.
    shares: tuple[list[int], list[int]] = [], []
    sizes = [array.size for array in arrays]
    for place in sorted(range(len(arrays)), key=lambda place: -sizes[place]):
        min(shares, key=lambda share: sum(sizes[one] for one in share)).append(place)
    length = max(sum(sizes[place] for place in share) for share in shares)

    def compute(share: list[int]) -> jax.Array:
        found = jnp.concatenate([function(arrays[place]).ravel() for place in share])
        return jnp.pad(found, (0, length - found.size))

    own = jax.lax.cond(half() == 0, partial(compute, shares[0]), partial(compute, shares[1]))
    both = jax.lax.all_gather(own, HALVES)
    results = list(arrays)
    for share, vector in zip(shares, both, strict=True):
        found = parts_of(vector, [arrays[place].shape for place in share])
        for place, part in zip(share, found, strict=True):
            results[place] = part
    return results


def parts_of(vector: jax.Array, shapes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """Returns arrays of these shapes, whose elements follow each other in `vector`."""
    sizes = [math.prod(shape) for shape in shapes]
    # XLA compiles operations that are alike once, and slices at two constants are not. The barrier
    # hides the constants, and the program of a step compiles as fast as without halves.
    begins = [np.uint32(end - size) for end, size in zip(np.cumsum(sizes), sizes, strict=True)]
    return [
        jax.lax.dynamic_slice_in_dim(vector, begin, size).reshape(shape)
        for begin, size, shape in zip(
            jax.lax.optimization_barrier(begins), sizes, shapes, strict=True
        )
    ]


def data_mesh(*batch_sizes: int) -> Mesh:
    """Returns as many of the devices as divide every one of `batch_sizes`, on the axis "data"."""
    devices = found()
    count = max(n for n in range(1, len(devices) + 1) if all(size % n == 0 for size in batch_sizes))
    return Mesh(np.asarray(devices[:count]).reshape(count, 1, 1), AXES)


def batch_ways(mesh: Mesh) -> int:
    """Returns the number of parts that a batch is divided into."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def divisible(batch_size: int, mesh: Mesh) -> int:
    """Returns the next batch size from `batch_size` on that the devices can divide."""
    return -(-batch_size // batch_ways(mesh)) * batch_ways(mesh)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns `tree` with a copy of each array on each device."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: place(leaf, whole), tree)


def place(array: Any, layout: NamedSharding) -> jax.Array:
    """Returns `array` laid out over the devices of all processes, each of which has all of it."""
    if layout.is_fully_addressable:
        return jax.device_put(array, layout)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.jit(_same, out_shardings=layout)(array)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, layout, lambda index: host[index])


def place_slices(tensor: Any, shape: tuple[int, ...], layout: Any) -> jax.Array:
    """Returns a tensor of a file laid out over devices; each process reads what its own get.

    `tensor` is a slice of safetensors, which reads what it is indexed by.
    """
    if layout.is_fully_addressable:
        return jax.device_put(tensor[...], layout)
    return jax.make_array_from_callback(shape, layout, lambda index: tensor[index])


def _same(array: jax.Array) -> jax.Array:
    return array


def one_each(value: int, mesh: Mesh) -> jax.Array:
    """Returns an integer for each device of `mesh`; those of this process are `value`."""
    layout = NamedSharding(mesh, PartitionSpec(AXES))
    own = np.full(1, value, np.int32)
    return jax.make_array_from_callback((mesh.size,), layout, lambda _: own)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Returns `tree`, laid out over `mesh`, whole on this process's first device."""
    if mesh.size == 1:
        return tree
    alone = Mesh(np.asarray(jax.local_devices()[:1]).reshape(1, 1, 1), AXES)
    copies = jax.tree.map(lambda leaf: leaf.addressable_data(0), replicate(tree, mesh))
    return replicate(copies, alone)


def own_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Returns which rows of a batch the devices of this process have, in order."""
    layout = NamedSharding(mesh, PartitionSpec(BATCH))
    parts = layout.addressable_devices_indices_map((batch_size,)).values()
    return np.unique([np.arange(batch_size)[part] for part in parts])


def split_batches(batches: np.ndarray, mesh: Mesh) -> jax.Array:
    """Returns batches [K, B, ...] with B divided among the devices; each process has all rows."""
    return place(batches, NamedSharding(mesh, PartitionSpec(None, BATCH)))


def join_rows(rows: np.ndarray, batch_size: int, mesh: Mesh) -> jax.Array:
    """Returns batches [K, B, ...], B divided among the devices, from each process's own rows."""
    layout = NamedSharding(mesh, PartitionSpec(None, BATCH))
    shape = (rows.shape[0], batch_size, *rows.shape[2:])
    return jax.make_array_from_process_local_data(layout, rows, shape)


def send_ahead(
    chunks: Iterator[tuple[int, np.ndarray]], batch_size: int, mesh: Mesh
) -> Iterator[tuple[int, jax.Array]]:
    """Yields (first_step, batches [K, B, ...]) on the devices, each after the next has been sent.

    A copy to a GPU then takes place while the device works on the batches before.
    """
    sent = ((first, join_rows(rows, batch_size, mesh)) for first, rows in chunks)
    ahead = next(sent, None)
    while ahead is not None:
        now, ahead = ahead, next(sent, None)
        yield now
