"""n-grams of tokens with the smoothing of Witten and Bell (1991), as a yardstick for models.

An n-gram predicts a token from the n - 1 before it, by counts of the training text. Tokens seen
after a context leave room for others by the number of different ones seen there:
p_n(t | c) = (count(c t) + types(c) p_(n-1)(t)) / (count(c) + types(c)), with p_0 = 1 / V.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MAX_ORDER = 8
ABSENT = -1  # The place of a context that the training text does not have.


class Order(NamedTuple):
    """Counts of one order; contexts have places, and so do contexts with a token after them."""

    contexts: np.ndarray  # Sorted: the token added on the left, and the place of the rest.
    keys: np.ndarray  # Sorted: the place of the context, and the token after it.
    counts: np.ndarray  # Of the keys.
    totals: np.ndarray  # Of the contexts: tokens after it.
    types: np.ndarray  # Of the contexts: different tokens after it.


class NGrams:
    """Counts of a training text, for orders 1 to `MAX_ORDER`, or to the length of the text."""

    def __init__(self, train: np.ndarray, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.orders: list[Order] = []
        tokens = np.asarray(train, np.int64)
        rest = np.zeros(len(tokens), np.int64)  # The place of each token's context.
        num_rest = 1
        for order in range(1, min(MAX_ORDER, len(tokens)) + 1):
            if order > 1:
                longer = tokens[: len(tokens) - order + 1] * num_rest + rest[1:]
                contexts, rest = np.unique(longer, return_inverse=True)
            else:
                contexts = np.zeros(1, np.int64)
            num_rest = len(contexts)
            keys, counts = np.unique(rest * vocab_size + tokens[order - 1 :], return_counts=True)
            of_context = keys // vocab_size
            totals = np.bincount(of_context, counts, num_rest).astype(np.int64)
            types = np.bincount(of_context, minlength=num_rest)
            self.orders.append(Order(contexts, keys, counts, totals, types))

    def nats(self, tokens: np.ndarray, context_length: int) -> np.ndarray:
        """Returns the nats of each token after the first for each order, [orders, N].

        As in an exact evaluation, windows of `context_length` tokens follow each other, and a token
        near the beginning of one has only the window's tokens before it.
        """
        tokens = np.asarray(tokens, np.int64)
        targets = tokens[1:]
        p = np.full(len(targets), 1 / self.vocab_size)
        found = []
        for order, place in zip(self.orders, self._places(tokens, context_length), strict=True):
            seen = place != ABSENT
            count = _count(order, place[seen] * self.vocab_size + targets[seen])
            types, totals = order.types[place[seen]], order.totals[place[seen]]
            p = p.copy()
            p[seen] = (count + types * p[seen]) / (totals + types)
            found.append(-np.log(p))
        return np.stack(found)

    def distributions(
        self, tokens: np.ndarray, context_length: int, chosen: np.ndarray
    ) -> Iterator[np.ndarray]:
        """Yields, for each order, what it predicts for the targets at `chosen`, [chosen, V].

        Target i is token i + 1; windows are those of `nats`. The array is the same one, changed.
        """
        p_NV = np.full((len(chosen), self.vocab_size), 1 / self.vocab_size)
        places = self._places(np.asarray(tokens, np.int64), context_length)
        for order, place in zip(self.orders, places, strict=True):
            for row, context in zip(p_NV, place[chosen], strict=True):
                if context == ABSENT:
                    continue
                bounds = np.array([context, context + 1]) * self.vocab_size
                after = slice(*np.searchsorted(order.keys, bounds))
                row *= order.types[context]
                row[order.keys[after] % self.vocab_size] += order.counts[after]
                row /= order.types[context] + order.totals[context]
            yield p_NV

    def _places(self, tokens: np.ndarray, context_length: int) -> Iterator[np.ndarray]:
        """Yields, for each order, the place of each target's context; ABSENT where it has none."""
        num = len(tokens) - 1
        before = np.arange(num) % context_length + 1  # Tokens of the window before each target.
        place = np.zeros(num, np.int64)
        yield place
        num_rest = 1
        for length, order in enumerate(self.orders[1:], start=1):
            # The token on the left of the context; rolled where there is none, and not used.
            left = np.roll(tokens[:-1], length - 1)
            longer = left * num_rest + place
            at = np.minimum(np.searchsorted(order.contexts, longer), len(order.contexts) - 1)
            is_there = (place != ABSENT) & (length <= before) & (order.contexts[at] == longer)
            place = np.where(is_there, at, ABSENT)
            num_rest = len(order.contexts)
            yield place


def _count(order: Order, keys: np.ndarray) -> np.ndarray:
    """Returns the counts of some keys, 0 where there are none."""
    at = np.minimum(np.searchsorted(order.keys, keys), len(order.keys) - 1)
    return np.where(order.keys[at] == keys, order.counts[at], 0)
