"""The training step of a run before anything is allocated: its arguments as shapes and layouts.

A step can be compiled from these before there is a state, and a state be restored like these.
"""

from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from models import sharding
from runtime import programs
from runtime.devices import BATCH
from training import norms
from training.optimizer import Optimizer
from training.setup import Setup
from training.step import creation, metric_shapes, new_state


def state_shapes(setup: Setup) -> Any:
    """Returns the TrainState of a run, with shapes and layouts in place of arrays."""

    def draw() -> Any:
        return creation(setup.model, setup.tx).eval_shape(np.uint32(setup.seed)).params

    # The parameters' shapes are kept, for tracing a model takes half a second.
    params = programs.cached("parameter_shapes", setup.cache_key, (), draw)
    drawn = beginning(setup.tx).eval_shape(params)
    shapes = jax.tree.map(_shape, drawn, sharding.layout(drawn, setup.mesh))
    return shapes.replace(apply_fn=setup.model.apply, tx=setup.tx)


@cache
def beginning(tx: Optimizer) -> Any:
    """Returns jitted `new_state`, which is traced once for all who ask for its shapes."""
    return jax.jit(partial(new_state, tx))


def step_shapes(setup: Setup) -> tuple:
    """Returns the arguments of `train_steps`, with shapes and layouts in place of arrays."""
    state, train = state_shapes(setup), setup.train
    layer_norms: Any = norms.initial(state.params) if train.log_norms_every_steps else None
    metrics = metric_shapes(setup.mesh, layer_norms)
    shape = train.steps_per_dispatch, train.batch_size, setup.context_length + 1
    rows = NamedSharding(setup.mesh, PartitionSpec(None, BATCH))
    return setup.step_arguments(
        state, metrics, jax.ShapeDtypeStruct(shape, np.int32, sharding=rows)
    )


def _shape(leaf: Any, layout: NamedSharding) -> jax.ShapeDtypeStruct:
    is_weak = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout, weak_type=is_weak)
