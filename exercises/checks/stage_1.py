"""Checks of stage 1: loss of a fresh table, cross-entropy, counted pairs."""

from functools import cache

import numpy as np

from exercises.checks import text
from exercises.compare import explain, number, same, same_number
from exercises.learner import Answer, Wrong
from experiments import default

NEAR = 0.05


@cache
def measured_loss() -> float:
    """Returns the validation loss of a table with its initial parameters."""
    import jax  # Takes seconds to load; the other exercises of this stage need none of it.
    import jax.numpy as jnp

    import models

    data = text.load()
    V = data.vocab_size
    model = models.STAGES[default.LADDER[0]](V)
    tokens_11 = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens_11)
    table_VV = jax.jit(model.apply)(params, jnp.arange(V)[None])
    return text.loss_of(text.log_softmax(np.asarray(table_VV)[0]), data.val)


def fresh_loss(answer: Answer, setting: object) -> str:
    """Measures a fresh table on the validation split."""
    predicted = number(answer.call("fresh_loss"), "fresh_loss")
    measured, V = measured_loss(), text.load().vocab_size
    if abs(predicted - measured) > NEAR:
        mistakes = {
            "this is in bits, the logarithm with base 2": np.log2(V),
            "this is with base 10; nats have base e": np.log10(V),
            "this is the probability of a character, not its -log": 1 / V,
            "this is the log of the probability: the loss is minus that": -np.log(V),
        }
        cause = explain(np.array(predicted), mistakes, 0.01)
        because = f"{cause}; " if cause else ""
        raise Wrong(
            f"{because}predicted {predicted:.3g} nats, measured a number that is "
            f"{abs(predicted - measured):.2f} {'lower' if predicted > measured else 'higher'}"
        )
    return f"predicted {predicted:.3f}, measured {measured:.3f}"


def cross_entropy(answer: Answer, setting: object) -> str:
    """Compares losses of random logits, then of large ones."""
    rng = np.random.default_rng(0)
    logits_BTV, targets_BT = 2 * rng.standard_normal((3, 5, 7)), rng.integers(0, 7, (3, 5))

    def of_targets(values_BTV: np.ndarray, targets: np.ndarray = targets_BT) -> np.ndarray:
        return np.take_along_axis(values_BTV, targets[..., None], -1)[..., 0]

    log_p = text.log_softmax(logits_BTV)
    expected = -of_targets(log_p).mean()
    mistakes = {
        "the sum over all places, not the mean": expected * 15,
        "the sum over the T places of a text, not the mean": expected * 5,
        "the mean over the V characters, too": expected / 7,
        "this is in bits: np.log2 in place of np.log": expected / np.log(2),
        "the minus sign is missing": -expected,
        "no softmax: the mean of minus the logits": -of_targets(logits_BTV).mean(),
        "the mean of p before the logarithm": -np.log(np.exp(of_targets(log_p)).mean()),
        "no logarithm: the mean of p": np.exp(of_targets(log_p)).mean(),
        "the softmax over T, not over V": -of_targets(text.log_softmax(logits_BTV, 1)).mean(),
        "the softmax over B, not over V": -of_targets(text.log_softmax(logits_BTV, 0)).mean(),
        "the targets are one place too late": -of_targets(log_p[:, :-1], targets_BT[:, 1:]).mean(),
        "the loss of the likeliest character, not of the target": -log_p.max(-1).mean(),
    }
    found = answer.call("cross_entropy", logits_BTV, targets_BT)
    same_number(found, expected, "cross_entropy", mistakes)
    for size in (1e3, -1e3):
        large_BTV = logits_BTV + size * (np.arange(7) == 2)
        expected = -of_targets(text.log_softmax(large_BTV)).mean()
        found = answer.call("cross_entropy", large_BTV, targets_BT)
        if np.ndim(found) == 0 and not np.isfinite(np.float64(found)):
            raise Wrong(
                f"cross_entropy is {found} with a logit of {size:g}: np.exp overflows, or gives 0 "
                "to np.log; subtract the largest logit of each row first"
            )
        same_number(found, expected, f"cross_entropy with a logit of {size:g}")
    return ""


def bigram_table(answer: Answer, setting: object) -> str:
    """Compares tables of a short text, then measures the one of the training split."""
    tokens_T = np.array([0, 1, 2, 0, 1, 1, 3, 0, 2, 0, 1, 4])
    counts = text.pair_counts(tokens_T, 6)
    expected = text.log_table(counts)
    smooth = counts + 1
    with np.errstate(all="ignore"):
        share = counts / counts.sum(1, keepdims=True)
        mistakes = {
            "nothing is added to the counts": np.log(share),
            "the rows are the next token: rows and columns are swapped": text.log_table(counts.T),
            "each column sums to 1: divide each row by its sum": np.log(smooth / smooth.sum(0)),
            "the rows are the next token, and each column sums to 1": expected.T,
            "divided by the sum of the table, not of each row": np.log(smooth / smooth.sum()),
            "1 is added to the counts but not to their sum": np.log(
                smooth / counts.sum(1, keepdims=True)
            ),
            "entries are divided by the sum of another row: keepdims=True is missing": np.log(
                smooth / smooth.sum(1)
            ),
            "the logarithm is missing: these are probabilities": np.exp(expected),
            "these are counts: divide by the sum, then take the logarithm": smooth,
            "these are the logs of counts: divide by the sum first": np.log(smooth),
            "this is in bits: np.log2 in place of np.log": expected / np.log(2),
            "the last token and the first are no pair": text.log_table(
                text.pair_counts(np.append(tokens_T, 0), 6)
            ),
            "counts[rows, columns] += 1 counts each pair once: np.add.at counts all": (
                text.log_table(np.minimum(counts, 1))
            ),
        }
    same(answer.call("bigram_table", tokens_T, 6), expected, "bigram_table", "VW", mistakes)
    data = text.load()
    V = data.vocab_size
    table = answer.call("bigram_table", np.asarray(data.train), V)
    expected = text.log_table(text.pair_counts(data.train, V))
    same(table, expected, "bigram_table of the training split", "VW")
    return f"its loss on the validation split is {text.loss_of(expected, data.val):.3f} nats"
