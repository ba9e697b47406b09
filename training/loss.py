"""The training objective, its value and its gradient on a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from inference import metrics


class Objective(NamedTuple):
    """The function that training minimizes: cross-entropy, plus z-loss."""

    # Weight of the mean squared log of the softmax's normalizer, which keeps logits from drifting
    # (Chowdhery et al., 2022, section 5).
    z_loss: float = 0.0
    # Parts of the time axis whose logits exist at once, each computed again in the backward pass;
    # above 1 for models with `features` and `head`.
    num_chunks: int = 1


CROSS_ENTROPY = Objective()


def cross_entropy(
    params: Any, apply: Callable[..., jax.Array], batch_BT: jax.Array, rng: jax.Array
) -> jax.Array:
    """Returns the mean nats per token on windows [B, T + 1]: inputs, and targets shifted by one."""
    return objective_and_loss(params, apply, batch_BT, rng, CROSS_ENTROPY)[1]


def objective_and_loss(
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


def loss_and_gradient(
    state: TrainState,
    batch_BT: jax.Array,
    seed: jax.Array,
    num_parts: int = 1,
    objective: Objective = CROSS_ENTROPY,
) -> tuple[jax.Array, Any]:
    """Returns the cross-entropy of a batch and the objective's gradient.

    With gradient accumulation the batch is read in `num_parts` equal parts, one after the other,
    which takes less memory. The result differs by floating-point summation order, and by dropout,
    which draws anew for each part.
    """
    _, dropout_rng = jax.random.split(jax.random.key(seed))
    rng = jax.random.fold_in(dropout_rng, state.step)

    def of_part(batch_BT, rng):
        (_, loss), gradient = jax.value_and_grad(objective_and_loss, has_aux=True)(
            state.params, state.apply_fn, batch_BT, rng, objective
        )
        return loss, gradient

    if num_parts == 1:
        return of_part(batch_BT, rng)

    def add_part(total, part):
        number, part_BT = part
        return jax.tree.map(jnp.add, total, of_part(part_BT, jax.random.fold_in(rng, number))), None

    # Part p has the rows p, p + num_parts, ...: each device keeps the rows that it has.
    parts_PBT = batch_BT.reshape(-1, num_parts, batch_BT.shape[1]).swapaxes(0, 1)
    zeros = jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params)
    total, _ = jax.lax.scan(add_part, zeros, (jnp.arange(num_parts), parts_PBT))
    return jax.tree.map(lambda leaf: leaf / num_parts, total)
