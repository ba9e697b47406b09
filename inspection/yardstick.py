"""Yardstick of a model: the n-gram that is as good, and the one that it resembles most."""

from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from inspection.ngrams import NGrams
from inspection.scores import Scores
from inspection.subject import Subject
from runtime import programs

# Targets whose whole distributions are compared, and numbers of these distributions, at most.
NUM_TARGETS, NUM_NUMBERS = 2048, 2**24
# Tokens of the training text that are counted: counting takes 60 bytes for each.
NUM_COUNTED = 2**23


@partial(jax.jit, static_argnames="model")
def logs_of_windows(model: nn.Module, params: Any, windows_BT: jax.Array) -> jax.Array:
    """Returns the log-probabilities of all tokens after each token of windows, [B, T, V]."""
    logits_BTV = model.apply({"params": params}, windows_BT)
    assert isinstance(logits_BTV, jax.Array)
    return jax.nn.log_softmax(logits_BTV)


@lru_cache(maxsize=1)
def counts_of(train: bytes, dtype: str, vocab_size: int) -> NGrams:
    """Returns the n-grams of a text, given as bytes: counted once for the models of a ladder."""
    return NGrams(np.frombuffer(train, dtype), vocab_size)


def measure(subject: Subject, scores: Scores) -> dict:
    """Returns the losses of the n-grams, the order that is as good, and distances from each.

    A distance is the mean over targets of the Kullback-Leibler divergence of the n-gram's
    distribution from the model's, in nats: of windows spread over the text.
    """
    C, train = subject.context_length, subject.train[:NUM_COUNTED]
    counted = counts_of(train.tobytes(), train.dtype.str, subject.tokenizer.vocab_size)
    losses = counted.nats(subject.tokens, C).mean(axis=1)
    num_windows = len(subject.tokens) // C
    wanted = max(min(NUM_TARGETS, NUM_NUMBERS // subject.tokenizer.vocab_size), 1)
    windows = np.unique(np.linspace(0, num_windows - 1, max(wanted // C, 1)).astype(int))
    chosen = (windows[:, None] * C + np.arange(C)).ravel()
    chosen = chosen[chosen < len(subject.tokens) - 1]
    # Of one window that has more targets than are wanted, some spread over it.
    rows = np.linspace(0, len(chosen) - 1, min(wanted, len(chosen))).astype(int)
    chosen = chosen[rows]
    inputs = np.minimum(windows[:, None] * C + np.arange(C), len(subject.tokens) - 1)
    args = (subject.params, subject.tokens[inputs].astype(np.int32))
    logs_BTV = programs.for_model(logs_of_windows, (subject.model,), args)(*args)
    logs_NV = np.asarray(logs_BTV).reshape(-1, logs_BTV.shape[-1])[rows].astype(np.float64)
    p_NV = np.exp(logs_NV)
    entropy = (p_NV * logs_NV).sum(-1).mean()
    distances = [
        float(entropy - (p_NV * np.log(q_NV)).sum(-1).mean())
        for q_NV in counted.distributions(subject.tokens, C, chosen)
    ]
    loss = float(scores.nats.astype(np.float64).mean())
    return {
        "orders": [*range(1, len(losses) + 1)],
        "losses": losses.tolist(),
        "as_good_as": as_good_as(loss, losses.tolist()),
        "distances": distances,
        "num_distances": len(chosen),
        "nearest": int(np.argmin(distances)) + 1,
    }


def as_good_as(loss: float, losses: list[float]) -> float | None:
    """Returns the order, interpolated, of the n-gram with this loss; None beyond all of them.

    `losses` begin with order 1. Orders after the best one, which know the training text by heart,
    do not count.
    """
    best = losses.index(min(losses))
    for order, (before, after) in enumerate(pairwise(losses[: best + 1]), start=1):
        if before >= loss >= after:
            return order + (before - loss) / (before - after)
    return None
