"""Induction heads on the made text `new_table`: their scores, and what each head buys.

A letter that counts there follows one that it followed before in its window. A previous-token head
of the first block tells each letter which one is before it; an induction head of the second block
then finds the letter after the earlier occurrence of the current one (Olsson et al., 2022).
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from inspection import heads, interception
from runtime import programs

MASSES = ("previous", "induction")
NUM_WINDOWS = 256


def keys(windows_BT: np.ndarray, is_target_BT: np.ndarray) -> np.ndarray:
    """Returns the keys of each of MASSES, for the queries whose next letter counts, [B, M, T, S].

    Those of induction are the places of the right answer: the letter before is the current one, and
    the letter there is the next one.
    """
    inputs_BT, answers_BT = windows_BT[:, :-1], windows_BT[:, 1:]
    T = inputs_BT.shape[1]
    is_previous_TS = np.eye(T, k=-1, dtype=bool)
    is_past_TS = np.tri(T, dtype=bool)
    before_BS = np.roll(inputs_BT, 1, axis=1)
    before_BS[:, 0] = -1
    is_answer_BTS = (
        is_past_TS[None]
        & (before_BS[:, None] == inputs_BT[..., None])
        & (inputs_BT[:, None] == answers_BT[..., None])
    )
    of_both = np.stack([np.broadcast_to(is_previous_TS, is_answer_BTS.shape), is_answer_BTS], 1)
    return of_both & is_target_BT[:, None, :, None]


@partial(jax.jit, static_argnames="model")
def masses(model: nn.Module, params: Any, inputs_BT: jax.Array, keys_BMTS: jax.Array) -> jax.Array:
    """Returns each head's mean weight on such keys, over the queries that have some, [M, L, H]."""

    def of_window(window: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tokens_T, keys_MTS = window
        sums_MLH, _, queries_M = heads.mass(heads.all_weights(model, params, tokens_T), keys_MTS)
        return sums_MLH, queries_M

    sums_BMLH, queries_BM = jax.lax.map(of_window, (inputs_BT, keys_BMTS))
    return sums_BMLH.sum(0) / queries_BM.sum(0)[:, None, None]


def scores(
    model: nn.Module, params: Any, windows_BT: np.ndarray, is_target_BT: np.ndarray
) -> list[dict]:
    """Returns the mean weights of each head on the keys of MASSES, first block first."""
    args = (params, windows_BT[:, :-1], keys(windows_BT, is_target_BT))
    of_heads_MLH = np.asarray(programs.for_model(masses, (model,), args)(*args), np.float64)
    return [
        {
            "layer": layer + 1,
            "head": head + 1,
            **dict(zip(MASSES, of_heads_MLH[:, layer, head].tolist(), strict=True)),
        }
        for layer, head in np.ndindex(of_heads_MLH.shape[1:])
    ]


@partial(jax.jit, static_argnames="model")
def nats_with(
    model: nn.Module, params: Any, windows_BT: jax.Array, switches_NLH: jax.Array
) -> jax.Array:
    """Returns `heads.nats_of_settings`, compiled."""
    return heads.nats_of_settings(model, params, windows_BT, switches_NLH)


def losses_without(
    model: nn.Module, params: Any, windows_BT: np.ndarray, is_target_BT: np.ndarray
) -> tuple[float, np.ndarray]:
    """Returns the loss over the letters that count, and that without each head in turn, [L, H].

    The output of a head that is switched off is its mean over these windows.
    """
    found = interception.attentions(model, params)
    shape = len(found), found[0].num_heads
    num = shape[0] * shape[1]
    switches = 1 - np.eye(num + 1, dtype=np.float32)[:, 1:]
    args = (params, windows_BT, switches.reshape(-1, *shape))
    nats_NBT = np.asarray(programs.for_model(nats_with, (model,), args)(*args), np.float64)
    losses_N = nats_NBT[:, is_target_BT].mean(-1)
    return float(losses_N[0]), losses_N[1:].reshape(shape)


def some_windows(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns windows [B, T + 1] and which of the last T letters count, of marked ones.

    A letter that does not count is marked by its complement.
    """
    some_BT = marked[:NUM_WINDOWS]
    return np.maximum(some_BT, ~some_BT).astype(np.int32), some_BT[:, 1:] >= 0


def study(model: nn.Module, params: Any, snapshots: Any, marked: np.ndarray) -> dict[str, Any]:
    """Returns the scores of all heads by step, and what each buys in the end.

    `snapshots` are steps with parameters, first to last; `params` are the last ones.
    """
    texts = some_windows(marked)
    by_step = [
        {"step": step, "heads": scores(model, of_step, *texts)} for step, of_step in snapshots
    ]
    loss, without_LH = losses_without(model, params, *texts)
    rows = scores(model, params, *texts)
    for row in rows:
        row["loss_without"] = float(without_LH[row["layer"] - 1, row["head"] - 1])
        row["cost"] = row["loss_without"] - loss
    return {"num_windows": len(texts[0]), "loss": loss, "heads": rows, "steps": by_step}
