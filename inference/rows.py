"""Results of a model for each row of many batches, computed by all devices of a mesh.

On a CPU with two cores each computes half of the rows: XLA alone would divide the large products
among them, and leave most of the rest to one.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models import sharding
from runtime import devices, programs
from runtime.devices import BATCH, HALVES


def over(function: Any, model: nn.Module, params: Any, mesh: Mesh) -> Callable[..., Any]:
    """Returns jitted `function(model, params, *batches)` as a function of the batches.

    These and the results are arrays [C, B, ...], the first of them tokens [C, B, T]; no row of a
    result depends on another row.
    """
    whole = function, params, NamedSharding(mesh, PartitionSpec(None, BATCH))

    @functools.cache
    def halved(pair: Mesh) -> tuple:
        layout = NamedSharding(pair, PartitionSpec(None, HALVES))
        return _divided(function, pair), devices.replicate(params, pair), layout

    def of_batches(*batches: np.ndarray) -> Any:
        size, length = batches[0].shape[1:]
        pair = None if size % 2 else sharding.halves(params, 2 * size * length, mesh)
        called, weights, layout = whole if pair is None else halved(pair)
        args = (weights, *(devices.place(array, layout) for array in batches))
        with sharding.over(mesh):
            return programs.for_model(called, (model,), args)(*args)

    return of_batches


@functools.cache
def _divided(function: Any, pair: Mesh) -> Any:
    """Returns `function`, jitted to compute half of the rows on each device of `pair`."""
    rows = PartitionSpec(None, HALVES)

    @functools.wraps(function)
    def divided(model: nn.Module, params: Any, *batches: jax.Array) -> Any:
        of_model = functools.partial(inspect.unwrap(function), model)
        specs = (PartitionSpec(), *[rows] * len(batches))
        of_half = jax.shard_map(
            of_model, mesh=pair, in_specs=specs, out_specs=rows, check_vma=False
        )
        return of_half(params, *batches)

    return jax.jit(divided, static_argnums=0)
