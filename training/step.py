"""The training step, and many of them in one dispatch: the device's work.

A step whose loss or gradient is not finite changes nothing: it is skipped and counted. When more
steps have been skipped than the run allows, the dispatch makes no further step.
"""

import inspect
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models import sharding
from models.layers import reference
from runtime import devices, programs
from training import norms
from training.loss import CROSS_ENTROPY, Objective, cross_entropy, loss_and_gradient
from training.optimizer import Optimizer
from training.schedule import Schedule


class Metrics(NamedTuple):
    """Measurements of one step; `skipped` counts the skipped steps since the run began."""

    loss: jax.Array  # Mean nats per token of the batch, before the step.
    grad_norm: jax.Array  # Before clipping.
    learning_rate: jax.Array
    skipped: jax.Array
    # By layer [2, layers]: of the gradient before clipping, and of the parameters after the step.
    # Of a dispatch's last step alone; None where they are not measured.
    norms: jax.Array | None = None
    # Of several processes, what each device's process wishes, then the greatest: agreement.py.
    wishes: jax.Array | None = None

    def fetch(self) -> "Metrics":
        """Waits for the device, and returns the numbers that are the same for all processes."""
        return jax.device_get(self._replace(wishes=None))


def initial_metrics(mesh: Mesh, skipped: int = 0, layer_norms: Any = None) -> Metrics:
    """Returns the metrics before the first step, on every device of `mesh`.

    Steps measure the norms of layers if `layer_norms` are given: those of norms.initial.
    """

    def zeros(one: Any) -> jax.Array:
        return devices.place(np.zeros(one.shape, one.dtype), one.sharding)

    shapes: Any = metric_shapes(mesh, layer_norms)
    counted = devices.place(np.int32(skipped), shapes.skipped.sharding)
    return jax.tree.map(zeros, shapes)._replace(skipped=counted)


def metric_shapes(mesh: Mesh, layer_norms: Any = None) -> Metrics:
    """Returns the metrics of a step with shapes and layouts in place of arrays."""

    def shape(of: tuple[int, ...], dtype: Any, *axes: Any) -> Any:
        layout = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(of, dtype, sharding=layout)

    number = shape((), np.float32)
    return Metrics(
        loss=number,
        grad_norm=number,
        learning_rate=number,
        skipped=shape((), np.int32),
        norms=None if layer_norms is None else shape(layer_norms.shape, layer_norms.dtype),
        wishes=shape((mesh.size,), np.int32, devices.AXES) if jax.process_count() > 1 else None,
    )


def create_state(
    model: nn.Module,
    tx: Optimizer,
    seed: int,
    mesh: Mesh,
    cache_key: str | None = None,
) -> TrainState:
    """Returns a TrainState with fresh parameters, laid out over `mesh`.

    `cache_key` identifies model, `tx` and mesh for the program cache: see runtime/programs.py.
    """
    # The seed is an argument, not a constant of the program: another one compiles nothing.
    args = (np.uint32(seed),)
    create = creation(model, tx)
    if mesh.size > 1:
        # No device has to hold what others will: each draws its own part, with the same numbers.
        shardings = sharding.layout(create.eval_shape(*args), mesh)
        create = jax.jit(partial(draw_state, model, tx), out_shardings=shardings)
    state = programs.compiled("create", cache_key, args, partial(create.lower, *args))(*args)
    if mesh.size == 1:
        state = devices.replicate(state, mesh)
    return state.replace(apply_fn=model.apply, tx=tx)


@cache
def creation(model: nn.Module, tx: Optimizer) -> Any:
    """Returns jitted `draw_state`: one trace serves the state's shapes and its program."""
    return jax.jit(partial(draw_state, model, tx))


def draw_state(model: nn.Module, tx: Optimizer, seed: jax.Array) -> TrainState:
    """Returns a TrainState with fresh parameters and no functions: what a program can return."""
    return new_state(tx, draw_params(model, seed))


def new_state(tx: Optimizer, params: Any) -> TrainState:
    """Returns a TrainState before the first step, with no functions."""
    return TrainState.create(apply_fn=None, params=params, tx=tx).replace(tx=None)


def draw_params(model: nn.Module, seed: jax.Array) -> Any:
    """Returns fresh parameters."""
    init_rng, _ = jax.random.split(jax.random.key(seed))
    return model.init(init_rng, jnp.zeros((1, 1), jnp.int32))["params"]


def train_step(
    state: TrainState,
    batch_BT: jax.Array,
    seed: jax.Array,
    before: Metrics,
    norms_due: jax.Array | None,
    schedule: Schedule,
    num_parts: int,
    objective: Objective,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one step, and the step's metrics; `before` are the last one's."""
    loss, gradient = loss_and_gradient(state, batch_BT, seed, num_parts, objective)
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    # The optimizer's own counter leaves out the skipped steps, too.
    learning_rate = schedule(state.step - before.skipped)

    def update():
        updates, opt_state = state.tx.update(
            gradient, state.opt_state, state.params, schedule=schedule
        )
        return optax.apply_updates(state.params, updates), opt_state

    params, opt_state = jax.lax.cond(is_finite, update, lambda: (state.params, state.opt_state))
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    skipped = before.skipped + jnp.where(is_finite, 0, 1)
    layer_norms = before.norms
    if norms_due is not None:
        layer_norms = jax.lax.cond(
            norms_due, lambda: norms.measure(gradient, state.params), lambda: before.norms
        )
    return state, Metrics(loss, norm, learning_rate, skipped, layer_norms, before.wishes)


@partial(jax.jit, static_argnames=("num_parts", "objective"), donate_argnames="state")
def train_steps(
    state: TrainState,
    metrics: Metrics,
    batches_KBT: jax.Array,
    first: int,
    stop: int,
    seed: jax.Array,
    max_skipped: int,
    schedule: Schedule,
    *,
    num_parts: int = 1,
    objective: Objective = CROSS_ENTROPY,
) -> tuple[TrainState, Metrics]:
    """Returns the state after steps on the batches first .. stop - 1, and the last one's metrics.

    `metrics` are those of the step before. The bounds are arguments and not shapes: one program
    serves every number of steps between two things that are due.
    """

    def goes_on(carry):
        k, _, metrics = carry
        return (k < stop) & (metrics.skipped <= max_skipped)

    def body(carry):
        k, state, metrics = carry
        batch_BT = jax.lax.dynamic_index_in_dim(batches_KBT, k, keepdims=False)
        norms_due = None if metrics.norms is None else k + 1 == stop
        return k + 1, *train_step(
            state, batch_BT, seed, metrics, norms_due, schedule, num_parts, objective
        )

    _, state, metrics = jax.lax.while_loop(goes_on, body, (jnp.int32(first), state, metrics))
    if metrics.wishes is not None:
        agreed = jnp.full_like(metrics.wishes, metrics.wishes.max())
        metrics = metrics._replace(wishes=agreed)
    return state, metrics


def laid_out_train_steps(state: TrainState, metrics: Metrics) -> Any:
    """Returns `train_steps` for a mesh: its results have the layouts of `state` and `metrics`."""
    return jax.jit(
        inspect.unwrap(train_steps),
        static_argnames=("num_parts", "objective"),
        donate_argnames="state",
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, (state, metrics)),
    )


class Flops(NamedTuple):
    """Floating-point operations of one step, as XLA counts them."""

    gradient: float  # Of the forward and backward pass, in the model's reference definition.
    update: float  # Of the optimizer: with Muon and a small batch more than the gradient's.

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.gradient + self.update


def gradient_flops(model: nn.Module, batch_shape: tuple[int, int]) -> float:
    """Returns the operations of a forward and backward pass; `batch_shape` is that of its tokens,
    the targets included.
    """
    batch_BT = jax.ShapeDtypeStruct(batch_shape, jnp.int32)
    gradient = jax.jit(jax.grad(cross_entropy), static_argnums=1)
    return _count(gradient, _shapes_of(model), model.apply, batch_BT, jax.random.key(0))


def update_flops(model: nn.Module, tx: Optimizer) -> float:
    """Returns the operations of the optimizer's part of a step."""

    def update(gradient, opt_state, params, schedule):
        updates, _ = tx.update(gradient, opt_state, params, schedule=schedule)
        return optax.apply_updates(params, updates)

    params = _shapes_of(model)
    return _count(jax.jit(update), params, jax.eval_shape(tx.init, params), params, Schedule())


def _shapes_of(model: nn.Module) -> Any:
    return jax.eval_shape(partial(draw_params, model), np.uint32(0))


def _count(function: Any, *args: Any) -> float:
    """Returns the operations of a jitted function."""
    # Counted for the CPU wherever the run is: the plugins of other devices do not count.
    with jax.default_device(jax.local_devices(backend="cpu")[0]), reference.forced():
        cost = function.lower(*args).cost_analysis()
    assert cost is not None, "XLA counts the operations of a CPU's program"
    return cost["flops"]
