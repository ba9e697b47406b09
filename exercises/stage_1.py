"""Exercises of stage 1, the bigram table. Check them: python -m exercises.check 1

Letters: B texts in a batch, T characters of each, V characters that exist. An array's name ends in
the letters of its axes: logits_BTV has three.
"""

import numpy as np


def fresh_loss() -> float:
    """1.1, predict: returns the loss of a bigram table before its first update.

    There are 65 characters. A fresh table is random numbers near 0, so that all characters are
    about as likely. Return the loss in nats per character on the validation split. The check
    measures it; a difference of 0.05 is right.
    """
    raise NotImplementedError


def cross_entropy(logits_BTV: np.ndarray, targets_BT: np.ndarray) -> float:
    """1.2, write: returns the mean loss in nats.

    The loss at one place is -log p, where p is the probability that softmax(logits) gives to the
    target, a number from 0 to V - 1. The result is one number: the mean over all B x T places.
    Logits of 1,000 must not overflow.
    """
    raise NotImplementedError


def bigram_table(tokens_T: np.ndarray, vocab_size: int) -> np.ndarray:
    """1.3, write: returns a table [V, V] of log probabilities, counted in a text.

    Row i, column j: the log of the probability that token j follows token i. Count how often it
    does in the text, add 1 to every count, and divide each row by its sum. A text has a million
    characters: np.add.at(counts, (rows, columns), 1) counts all of its pairs in one call.
    """
    raise NotImplementedError
