"""A training step on two cores of a CPU, each of which computes half of every batch.

XLA divides large products among a CPU's cores, and leaves most of the rest to one of them. Two
devices of one CPU, each with half of the rows, keep both cores at work throughout. Each has a copy
of the state; what evaluates, writes text and saves gets the first one's.
"""

import inspect
from functools import partial
from typing import Any

import jax
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models import sharding
from runtime import process
from runtime.devices import HALVES
from training.step import Metrics, train_steps

# Each half has a copy of the parameters, their gradient and the optimizer's state.
MOST_PARAMETERS = 32_000_000
# The first half waits for the second, and XLA ends a process whose device waits for too long: 40
# seconds, which a laptop that sleeps exceeds.
PATIENCE = {"xla_cpu_collective_call_terminate_timeout_seconds": 2**30}
# With a core for each half, a product in parts on both would only make the halves wait.
ONE_CORE_EACH = {"xla_cpu_multi_thread_eigen": False}


def mesh_for(params: Any, batch_shape: tuple[int, ...], num_parts: int, mesh: Mesh) -> Mesh | None:
    """Returns the two devices that divide a step, None for a step that one makes faster.

    `params` may be shapes; `batch_shape` is [K, B, T + 1], each batch read in `num_parts` parts.
    """
    if batch_shape[1] % (2 * num_parts):
        return None
    if sum(leaf.size for leaf in jax.tree.leaves(params)) > MOST_PARAMETERS:
        return None
    # Two operations a weight and token, backward four.
    return sharding.halves(params, 6 * batch_shape[1] * (batch_shape[2] - 1), mesh)


def steps_on(pair: Mesh, **options: Any) -> Any:
    """Returns jitted `train_steps` with every batch divided between the two devices of `pair`.

    `options` are its static arguments.
    """
    whole = PartitionSpec()
    divided = jax.shard_map(
        partial(inspect.unwrap(train_steps), **options),
        mesh=pair,
        in_specs=(whole, whole, PartitionSpec(None, HALVES), *[whole] * 5),
        out_specs=whole,
        # JAX would have to see that the results of both devices are equal.
        check_vma=False,
    )
    return jax.jit(divided, donate_argnums=0)


def compiler_options() -> dict[str, int | bool]:
    """Returns XLA's options for `steps_on`."""
    return PATIENCE | (ONE_CORE_EACH if process.num_cores() == 2 else {})


def layouts(args: tuple, pair: Mesh) -> tuple:
    """Returns the arguments of `train_steps` as shapes with their layouts on `pair`."""
    rows, whole = PartitionSpec(None, HALVES), PartitionSpec()

    def shape(spec: PartitionSpec, leaf: Any) -> Any:
        layout = NamedSharding(pair, spec)
        weak = getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout, weak_type=weak)

    state, metrics = jax.tree.map(partial(shape, whole), args[:2])
    return state, metrics, shape(rows, args[2]), *args[3:]


def spread(
    state: TrainState, metrics: Metrics, batches_KBT: jax.Array, pair: Mesh
) -> tuple[TrainState, Metrics, jax.Array]:
    """Returns a dispatch's arguments on both devices; results of the one before are there."""
    rows, whole = (NamedSharding(pair, PartitionSpec(*axes)) for axes in ((None, HALVES), ()))
    if metrics.loss.sharding != whole:
        state, metrics = jax.device_put((state, metrics), whole)
    return state, metrics, jax.device_put(batches_KBT, rows)


def first(state: TrainState, mesh: Mesh) -> TrainState:
    """Returns a state on the one device of a run's `mesh`, without a copy; itself if it is there.

    The next dispatch overwrites it, as it does the state on both devices.
    """
    if len(jax.tree.leaves(state)[0].sharding.device_set) == mesh.size:
        return state
    layout = NamedSharding(mesh, PartitionSpec())

    def of_first(leaf: jax.Array) -> jax.Array:
        own = [leaf.addressable_data(0)]
        return jax.make_array_from_single_device_arrays(leaf.shape, layout, own)

    return jax.tree.map(of_first, state)
