"""Tiny Shakespeare as token ids, and the loss of a table of pairs on it."""

from functools import cache
from typing import NamedTuple

import numpy as np

from experiments import default
from input_pipeline import corpus
from input_pipeline.pairs import Pairs


class Text(NamedTuple):
    """Token ids of both splits."""

    train: np.ndarray
    val: np.ndarray
    vocab_size: int


@cache
def load() -> Text:
    """Returns the text that all stages are trained on."""
    data = corpus.load(default.get_config().data)
    assert not isinstance(data.train, Pairs) and not isinstance(data.val, Pairs)
    return Text(np.asarray(data.train), np.asarray(data.val), data.tokenizer.vocab_size)


def log_softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns log probabilities, in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def pair_counts(tokens_T: np.ndarray, vocab_size: int) -> np.ndarray:
    """Returns how often token j follows token i, [V, V]."""
    pairs = tokens_T[:-1].astype(np.int64) * vocab_size + tokens_T[1:]
    return np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)


def log_table(counts_VV: np.ndarray) -> np.ndarray:
    """Returns the log probabilities of counts with one added to each."""
    smooth = counts_VV + 1
    return np.log(smooth / smooth.sum(1, keepdims=True))


def loss_of(log_p_VV: np.ndarray, tokens_T: np.ndarray) -> float:
    """Returns the mean nats of the tokens after the first."""
    return float(-log_p_VV[tokens_T[:-1], tokens_T[1:]].mean())


def loss_of_counted_pairs() -> float:
    """Returns the validation loss of pairs counted in the training split."""
    data = load()
    return loss_of(log_table(pair_counts(data.train, data.vocab_size)), data.val)
