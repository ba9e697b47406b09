"""Growth: what a model was like at each snapshot of its training, and what it was nearest to.

A distance is the mean Kullback-Leibler divergence from the model's distribution to that of an
n-gram, or of a model of an earlier stage, over the same held-out targets, in nats.
"""

from itertools import islice

import numpy as np

from inspection import account, heads, magnitudes, scores, yardstick
from inspection.kinds import NAMES
from inspection.scores import Scores
from inspection.subject import Subject
from inspection.tokens import kinds_of_tokens
from runtime import programs

# Held-out tokens that each snapshot is scored on, and those whose distributions are compared.
NUM_TOKENS, NUM_TARGETS = 2**14, 2**11
# Numbers of distributions in memory, at most.
NUM_NUMBERS = 2**24
# Orders of n-grams that models are compared with; the best one of Tiny Shakespeare is 5.
MAX_ORDER = 5


def measure(subject: Subject, found: Scores) -> dict | None:
    """Returns what `at_snapshot` does for each snapshot; None without any."""
    most = max(NUM_TOKENS, 2 * subject.context_length + 1)
    short = subject._replace(tokens=subject.tokens[:most])
    num = min(NUM_TARGETS, NUM_NUMBERS // subject.tokenizer.vocab_size, len(short.tokens) - 1)
    others: dict[str, np.ndarray] = {}
    steps = []
    for step, params in subject.snapshots():
        others = others or dict(logs_of_others(short, num))
        steps.append({"step": step, **at_snapshot(short._replace(params=params), others)})
    if not steps:
        return None
    return {
        "kinds": list(NAMES),
        "counts": np.bincount(kinds_of_tokens(short)[1:], minlength=len(NAMES)).tolist(),
        "others": list(others),
        "steps": steps,
    }


def logs_of_others(subject: Subject, num: int) -> list[tuple[str, np.ndarray]]:
    """Returns the log-probabilities [N, V] of n-grams and of models with the same tokens."""
    C, train, tokens = (
        subject.context_length,
        subject.train[: yardstick.NUM_COUNTED],
        subject.tokens,
    )
    counted = yardstick.counts_of(train.tobytes(), train.dtype.str, subject.tokenizer.vocab_size)
    grams = counted.distributions(tokens, C, np.arange(num))
    made = [
        (f"{order}-gram", np.log(p_NV)) for order, p_NV in enumerate(islice(grams, MAX_ORDER), 1)
    ]
    for other in subject.others:
        if np.array_equal(other.tokens[: len(tokens)], tokens):
            made.append((other.name, log_probabilities(other, tokens, num)))
    return made


def log_probabilities(subject: Subject, tokens: np.ndarray, num: int) -> np.ndarray:
    """Returns a model's log-probabilities after each of the first tokens, [N, V].

    In windows of its own context, as in an exact evaluation.
    """
    C = subject.context_length
    places = np.minimum(np.arange(-(-num // C) * C), len(tokens) - 1)
    args = (subject.params, tokens[places].reshape(-1, C).astype(np.int32))
    logs = programs.for_model(yardstick.logs_of_windows, (subject.model,), args)(*args)
    return np.asarray(logs, np.float64).reshape(-1, logs.shape[-1])[:num]


def at_snapshot(subject: Subject, others: dict[str, np.ndarray]) -> dict:
    """Returns the measurements of one snapshot, whose parameters the subject has."""
    found = scores.score(subject)
    num = len(next(iter(others.values())))
    logs_NV = log_probabilities(subject, subject.tokens, num)
    p_NV = np.exp(logs_NV)
    distances = {
        name: float((p_NV * (logs_NV - other_NV)).sum(-1).mean())
        for name, other_NV in others.items()
    }
    model, params, C = subject.model, subject.params, subject.context_length
    of_heads = heads.measure_scores(model, params, subject.tokens, C)
    return {
        "loss": float(found.nats.astype(np.float64).mean()),
        "nats": account.measure(subject, found)["nats"],
        "distances": distances,
        "nearest": min(distances, key=distances.__getitem__),
        "heads": [
            {name: row[name] for name in ("layer", "head", *heads.MASSES)}
            for row in (of_heads["heads"] if of_heads else [])
        ],
        **magnitudes.measure(model, params, subject.tokens, C),
    }
