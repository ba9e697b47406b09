"""The training step of a run before anything is allocated: its arguments as shapes and layouts."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from models import sharding
from runtime.devices import BATCH
from training import norms
from training.setup import Setup
from training.step import Metrics, creation


def state_shapes(setup: Setup) -> Any:
    """Returns the TrainState of a run, with shapes and layouts in place of arrays."""
    drawn = creation(setup.model, setup.tx).eval_shape(np.uint32(setup.seed))
    shapes = jax.tree.map(_shape, drawn, sharding.layout(drawn, setup.mesh))
    return shapes.replace(apply_fn=setup.model.apply, tx=setup.tx)


def step_shapes(setup: Setup) -> tuple:
    """Returns the arguments of `train_steps`, with shapes and layouts in place of arrays."""
    state, train = state_shapes(setup), setup.train
    layer_norms: Any = norms.initial(state.params) if train.log_norms_every_steps else None
    number: Any = jax.ShapeDtypeStruct((), np.float32)
    skipped: Any = jax.ShapeDtypeStruct((), np.int32)
    measured = Metrics(number, number, number, skipped, layer_norms)
    whole = NamedSharding(setup.mesh, PartitionSpec())
    metrics = jax.tree.map(partial(_shape, layout=whole), measured)
    shape = train.steps_per_dispatch, train.batch_size, setup.context_length + 1
    rows = NamedSharding(setup.mesh, PartitionSpec(None, BATCH))
    return setup.step_arguments(
        state, metrics, jax.ShapeDtypeStruct(shape, np.int32, sharding=rows)
    )


def _shape(leaf: Any, layout: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)
