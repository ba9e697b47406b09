"""One update, and many of them in one dispatch: what the device does.

A loss or a gradient that is not finite changes nothing: its update is left out and counted, and
when more have been left out than the run allows, no further update is made.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import Mesh

from inference import metrics
from models.layers import reference
from runtime import devices, programs

# What an update measures; "skipped" counts those that were left out, since the run began.
Update = dict[str, jax.Array]


class Objective(NamedTuple):
    """The function that training minimizes: cross-entropy, plus z-loss."""

    # Weight of the mean squared log of the softmax's normalizer, which keeps logits from drifting
    # (Chowdhery et al., 2022, section 5).
    z_loss: float = 0.0
    # Parts of the time axis whose logits exist at once, each computed again in the backward pass;
    # above 1 for models with `features` and `head`.
    num_chunks: int = 1


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    made_of: str | None = None,
) -> TrainState:
    """Returns a TrainState with fresh parameters, on every device of `mesh`.

    `made_of` says what model and `tx` are, for the program to be kept: see runtime/programs.py.
    """
    # The seed is an argument, no constant of the program: another one compiles nothing.
    args = (np.uint32(seed),)
    lower = partial(jax.jit(partial(draw_state, model, tx)).lower, *args)
    made = programs.compiled("create", made_of, args, lower)(*args)
    return devices.replicate(made, mesh).replace(apply_fn=model.apply, tx=tx)


def draw_state(model: nn.Module, tx: optax.GradientTransformation, seed: jax.Array) -> TrainState:
    """Returns a TrainState with fresh parameters and no functions: what a program can return."""
    init_rng, _ = jax.random.split(jax.random.key(seed))
    params = model.init(init_rng, jnp.zeros((1, 1), jnp.int32))["params"]
    return TrainState.create(apply_fn=None, params=params, tx=tx).replace(tx=None)


def loss_of(
    params: Any, apply: Callable[..., jax.Array], batch_BT: jax.Array, rng: jax.Array
) -> jax.Array:
    """Mean nats per token on windows of T + 1 tokens: inputs, and shifted by one the targets."""
    return objective_of(params, apply, batch_BT, rng, Objective())[1]


def objective_of(
    params: Any,
    apply: Callable[..., jax.Array],
    batch_BT: jax.Array,
    rng: jax.Array,
    objective: Objective,
) -> tuple[jax.Array, jax.Array]:
    """Returns the objective and the cross-entropy alone, means over the batch's tokens."""
    forward = partial(apply, {"params": params})
    tokens_BT, in_training = batch_BT[:, :-1], dict(train=True, rngs={"dropout": rng})
    if objective.num_chunks == 1:
        return _losses(forward(tokens_BT, **in_training), batch_BT[:, 1:], objective.z_loss)
    x_BTD = forward(tokens_BT, **in_training, method="features")

    @jax.checkpoint
    def add_chunk(totals, chunk):
        x_BtD, targets_Bt = chunk
        losses = _losses(forward(x_BtD, method="head"), targets_Bt, objective.z_loss)
        return jax.tree.map(jnp.add, totals, losses), None

    chunks = _chunks(x_BTD, objective.num_chunks), _chunks(batch_BT[:, 1:], objective.num_chunks)
    totals, _ = jax.lax.scan(add_chunk, (jnp.float32(0), jnp.float32(0)), chunks)
    return jax.tree.map(lambda total: total / objective.num_chunks, totals)


def _losses(
    logits_BTV: jax.Array, targets_BT: jax.Array, z_loss: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the objective and the cross-entropy of some tokens, means over them."""
    loss = metrics.next_token_nats(logits_BTV, targets_BT).mean()
    if not z_loss:
        return loss, loss
    return loss + z_loss * jnp.square(jax.nn.logsumexp(logits_BTV, axis=-1)).mean(), loss


def _chunks(x: jax.Array, count: int) -> jax.Array:
    """Returns [B, T, ...] as [count, B, T / count, ...]."""
    B, T = x.shape[:2]
    return x.reshape(B, count, T // count, *x.shape[2:]).swapaxes(0, 1)


def gradient_of(
    state: TrainState,
    batch_BT: jax.Array,
    seed: jax.Array,
    num_parts: int = 1,
    objective: Objective = Objective(),  # noqa: B008 - immutable
) -> tuple[jax.Array, Any]:
    """The loss of a batch and the objective's gradient, read in `num_parts` equal parts in turn.

    Parts need less memory at a time and come to the same, but for the order in which numbers are
    added up, and for dropout, which draws for each part anew.
    """
    _, dropout_rng = jax.random.split(jax.random.key(seed))
    rng = jax.random.fold_in(dropout_rng, state.step)

    def loss_and_gradient(batch_BT, rng):
        measured = jax.value_and_grad(objective_of, has_aux=True)(
            state.params, state.apply_fn, batch_BT, rng, objective
        )
        (_, loss), gradient = measured
        return loss, gradient

    if num_parts == 1:
        return loss_and_gradient(batch_BT, rng)

    def add_part(total, part):
        number, part_BT = part
        part_rng = jax.random.fold_in(rng, number)
        return jax.tree.map(jnp.add, total, loss_and_gradient(part_BT, part_rng)), None

    # Part p has the rows p, p + num_parts, ...: each device keeps the rows that it has.
    parts_PBT = batch_BT.reshape(-1, num_parts, batch_BT.shape[1]).swapaxes(0, 1)
    nothing = jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params)
    total, _ = jax.lax.scan(add_part, nothing, (jnp.arange(num_parts), parts_PBT))
    return jax.tree.map(lambda one: one / num_parts, total)


def no_update(skipped: int = 0) -> Update:
    """What stands for the update before the first one."""
    nothing = {"train/loss": np.float32(0), "train/grad_norm": np.float32(0)}
    return {**nothing, "skipped": np.int32(skipped)}


def train_step(
    state: TrainState,
    batch_BT: jax.Array,
    seed: jax.Array,
    skipped: jax.Array,
    num_parts: int,
    objective: Objective,
) -> tuple[TrainState, Update]:
    """One update; the loss of its batch and the length of its gradient, before clipping."""
    loss, grads = gradient_of(state, batch_BT, seed, num_parts, objective)
    norm = optax.global_norm(grads)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    state = jax.lax.cond(
        is_finite,
        lambda: state.apply_gradients(grads=grads),
        lambda: state.replace(step=state.step + 1),
    )
    return state, {
        "train/loss": loss,
        "train/grad_norm": norm,
        "skipped": skipped + jnp.where(is_finite, 0, 1),
    }


@partial(jax.jit, static_argnames=("num_parts", "objective"), donate_argnames="state")
def train_steps(
    state: TrainState,
    update: Update,
    batches_KBT: jax.Array,
    first: int,
    stop: int,
    seed: jax.Array,
    max_skipped: int,
    num_parts: int = 1,
    objective: Objective = Objective(),  # noqa: B008 - immutable
) -> tuple[TrainState, Update]:
    """Updates with batches first .. stop - 1 of K in one dispatch; what the last one measured.

    `update` is the one before. The bounds are arguments, not shapes, so that one program serves
    every stretch between two things that are due.
    """

    def goes_on(carry):
        k, _, update = carry
        return (k < stop) & (update["skipped"] <= max_skipped)

    def body(carry):
        k, state, update = carry
        batch_BT = jax.lax.dynamic_index_in_dim(batches_KBT, k, keepdims=False)
        step = train_step(state, batch_BT, seed, update["skipped"], num_parts, objective)
        return k + 1, *step

    _, state, update = jax.lax.while_loop(goes_on, body, (jnp.int32(first), state, update))
    return state, update


def flops_per_step(state: TrainState, batch_shape: tuple[int, int]) -> float:
    """Floating-point operations of one forward and backward pass, as XLA counts them."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.params)
    batch_BT = jax.ShapeDtypeStruct(batch_shape, jnp.int32)
    grad = jax.jit(jax.grad(loss_of), static_argnums=1)
    # Counted for the CPU wherever the run is: the plugins of other devices do not count.
    with jax.default_device(jax.devices("cpu")[0]), reference.forced():
        lowered = grad.lower(params, state.apply_fn, batch_BT, jax.random.key(0))
    return lowered.cost_analysis()["flops"]
