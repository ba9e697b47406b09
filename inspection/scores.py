"""Every held-out token scored once, in the windows of an exact evaluation.

Their mean is the loss that evaluate.py gives.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from inference import metrics
from inspection.subject import Subject
from runtime import programs

NUM_GUESSES = 5
TOKENS_PER_BATCH = 4096


class Scores(NamedTuple):
    """Predictions of each token after the first, [N]."""

    nats: np.ndarray
    is_right: np.ndarray  # The best guess is that token.


class Guesses(NamedTuple):
    """The likeliest tokens at each place [N, G], and their probabilities."""

    tokens: np.ndarray
    p: np.ndarray


@partial(jax.jit, static_argnames="model")
def scores_of_batches(
    model: nn.Module, params: Any, windows_CBT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the nats of all targets of C batches of windows, and which best guesses are right."""

    def of_batch(windows_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        targets_BT = windows_BT[:, 1:]
        logits_BTV = model.apply({"params": params}, windows_BT[:, :-1])
        assert isinstance(logits_BTV, jax.Array)
        nats_BT = metrics.next_token_nats(logits_BTV, targets_BT)
        return nats_BT, logits_BTV.argmax(-1) == targets_BT

    return jax.lax.map(of_batch, windows_CBT)


@partial(jax.jit, static_argnames="model")
def guesses_of_batches(
    model: nn.Module, params: Any, windows_CBT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the likeliest tokens of all targets of C batches, and their probabilities."""

    def of_batch(windows_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BTV = model.apply({"params": params}, windows_BT[:, :-1])
        assert isinstance(logits_BTV, jax.Array)
        p_BTG, tokens_BTG = jax.lax.top_k(
            jax.nn.softmax(logits_BTV), min(NUM_GUESSES, logits_BTV.shape[-1])
        )
        return tokens_BTG, p_BTG

    return jax.lax.map(of_batch, windows_CBT)


def score(subject: Subject) -> Scores:
    """Returns the scores of the whole held-out text."""
    return Scores(*_of_text(scores_of_batches, subject, subject.tokens))


def guess(subject: Subject, places: slice) -> Guesses:
    """Returns the guesses at some places, in the windows of the whole text."""
    C = subject.context_length
    first = (places.start - 1) // C * C  # Where the window of the first place begins.
    tokens_NG, p_NG = _of_text(guesses_of_batches, subject, subject.tokens[first : places.stop])
    begin = places.start - 1 - first
    return Guesses(tokens_NG[begin:], p_NG[begin:])


def _of_text(function: Any, subject: Subject, tokens: np.ndarray) -> list[np.ndarray]:
    """Returns what `function` finds for each token after the first."""
    C, num = subject.context_length, len(tokens) - 1
    size = max(1, min(TOKENS_PER_BATCH // C, -(-num // C)))
    shape = -(-num // (C * size)), size
    starts = np.arange(shape[0] * shape[1])[:, None] * C
    # What is past the end repeats the last token, and is cut off.
    windows = tokens[np.minimum(starts + np.arange(C + 1), num)].astype(np.int32)
    args = (subject.params, windows.reshape(*shape, C + 1))
    found = programs.for_model(function, (subject.model,), args)(*args)
    return [np.asarray(part).reshape(-1, *part.shape[3:])[:num] for part in found]
