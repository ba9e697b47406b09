"""The training objective, its value and its gradient on a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.training.train_state import TrainState

from inference import metrics
from runtime import devices


class Objective(NamedTuple):
    """The function that training minimizes: cross-entropy, plus z-loss."""

    # Weight of the mean squared log of the softmax's normalizer, which keeps logits from drifting
    # (Chowdhery et al., 2022, section 5).
    z_loss: float = 0.0
    # Parts of the time axis whose logits exist at once, each computed again in the backward pass;
    # above 1 for models with `features` and `head`.
    num_chunks: int = 1
    # Tokens that are no targets stand as their complements (~t) in batches and do not count: the
    # prompts of pairs, and padding.
    is_marked: bool = False


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
    weights_BT: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the objective and the cross-entropy alone, means over the batch's tokens.

    `weights`, if they are given, are factors of the targets.
    """
    forward = partial(apply, {"params": params})
    tokens_BT, in_training = batch_BT[:, :-1], dict(train=True, rngs={"dropout": rng})
    if objective.num_chunks == 1:
        logits_BTV = forward(tokens_BT, **in_training)
        return _losses(logits_BTV, batch_BT[:, 1:], weights_BT, objective.z_loss)
    x_BTD = forward(tokens_BT, **in_training, method="features")

    @jax.checkpoint
    def add_chunk(totals, chunk):
        x_BtD, targets_Bt, weights_Bt = chunk
        logits_BtV = forward(x_BtD, method="head")
        losses = _losses(logits_BtV, targets_Bt, weights_Bt, objective.z_loss)
        return jax.tree.map(jnp.add, totals, losses), None

    chunked = partial(_chunks, count=objective.num_chunks)
    weights = None if weights_BT is None else chunked(weights_BT)
    chunks = chunked(x_BTD), chunked(batch_BT[:, 1:]), weights
    totals, _ = jax.lax.scan(add_chunk, (jnp.float32(0), jnp.float32(0)), chunks)
    return jax.tree.map(lambda total: total / objective.num_chunks, totals)


def _losses(
    logits_BTV: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array | None, z_loss: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the objective and the cross-entropy of some tokens, weighted means over them."""

    def mean(x_BT: jax.Array) -> jax.Array:
        return x_BT.mean() if weights_BT is None else (x_BT * weights_BT).mean()

    loss = mean(metrics.next_token_nats(logits_BTV, targets_BT))
    if not z_loss:
        return loss, loss
    return loss + z_loss * mean(jnp.square(jax.nn.logsumexp(logits_BTV, axis=-1))), loss


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
    which draws anew for each part. So it is with two halves of a batch: see halves.py.
    """
    _, dropout_rng = jax.random.split(jax.random.key(seed))
    rng = jax.random.fold_in(dropout_rng, state.step)
    if (half := devices.half()) is not None:
        rng = jax.random.fold_in(rng, half)

    def of_part(batch_BT, weights_BT, rng):
        (_, loss), gradient = jax.value_and_grad(objective_and_loss, has_aux=True)(
            state.params, state.apply_fn, batch_BT, rng, objective, weights_BT
        )
        return loss, gradient

    weights_BT = None
    if objective.is_marked:
        is_target_BT = batch_BT[:, 1:] >= 0
        # Their mean is 1, over the whole batch: parts with more targets weigh more.
        weights_BT = is_target_BT / devices.mean_of_halves(is_target_BT.mean())
        batch_BT = jnp.maximum(batch_BT, ~batch_BT)
    if num_parts == 1:
        return devices.mean_of_halves(of_part(batch_BT, weights_BT, rng))

    def add_part(total, part):
        number, part_BT, weights_BT = part
        part_rng = jax.random.fold_in(rng, number)
        return jax.tree.map(jnp.add, total, of_part(part_BT, weights_BT, part_rng)), None

    def split(x_BT):
        # Part p has the rows p, p + num_parts, ...: each device keeps the rows that it has.
        return x_BT.reshape(-1, num_parts, x_BT.shape[1]).swapaxes(0, 1)

    parts = jax.tree.map(split, (batch_BT, weights_BT))
    zeros = jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params)
    total, _ = jax.lax.scan(add_part, zeros, (jnp.arange(num_parts), *parts))
    return devices.mean_of_halves(jax.tree.map(lambda leaf: leaf / num_parts, total))
