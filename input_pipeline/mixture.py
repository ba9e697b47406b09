"""Several prepared corpora of which a training takes rows by weight, exactly.

Of any 10,000 rows in a row each corpus has its share, to the row: a random arrangement of 10,000
rows repeats. Each corpus goes through its own epochs.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from input_pipeline.permutation import permuted
from input_pipeline.shards import Shards
from runtime.errors import UserError

PERIOD = 10_000


class Mixture(Shards):
    """Token ids of several corpora, of each a number of rows in every PERIOD of them."""

    def __init__(self, parts: Sequence[Shards], counts: Sequence[int]) -> None:
        super().__init__([array for part in parts for array in part.arrays])
        self.parts = parts
        self.is_padded = parts[0].is_padded
        self.counts = counts

    def num_windows(self, context_length: int) -> int:
        """Returns the windows of an epoch of all corpora; 0 if one of them has none."""
        each = [part.num_windows(context_length) for part in self.parts]
        return sum(each) if all(each) else 0

    def drawn(self, rows: np.ndarray, context_length: int, seed: int) -> np.ndarray:
        """Returns the windows of some rows of a training, int32 [..., T+1]."""
        which, own_rows = self.dealt(rows, seed)
        windows = np.empty((*rows.shape, context_length + 1), np.int32)
        for number, part in enumerate(self.parts):
            of_part = which == number
            # A seed of its own: corpora of one size have orders of their own.
            own_seed = seed + number * 2**32
            windows[of_part] = part.drawn(own_rows[of_part], context_length, own_seed)
        return windows

    def dealt(self, rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns, for each row of a training, the number of the corpus, and that of its row."""
        arrangement, ranks = arranged(tuple(self.counts), seed)
        periods, places = np.divmod(rows, PERIOD)
        which = arrangement[places]
        return which, periods * np.asarray(self.counts)[which] + ranks[places]


@functools.cache
def arranged(counts: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corpus of each row of a period, and its rank among the rows of that corpus."""
    of_slots = np.repeat(np.arange(len(counts)), counts)
    arrangement = of_slots[permuted(np.arange(PERIOD), PERIOD, seed, 2**40)]
    ranks = np.empty(PERIOD, np.int64)
    for number, count in enumerate(counts):
        ranks[arrangement == number] = np.arange(count)
    return arrangement, ranks


def counts_of(weights: str, sizes: Sequence[int]) -> list[int]:
    """Returns the rows of each corpus in PERIOD of them, which `weights` asks for: "3,1".

    Without weights they are in proportion to `sizes`. Raises UserError for weights that are no
    numbers above 0, one for each corpus, and for a corpus that would get no row.
    """
    try:
        asked = [Fraction(word) for word in weights.split(",")] if weights else list(sizes)
        if len(asked) != len(sizes) or min(asked) <= 0:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise UserError(
            f"--config.data.weights={weights}: expected {len(sizes)} numbers above 0 with commas "
            "between, one for each folder of --config.data.path"
        ) from None
    exact = [PERIOD * Fraction(one) / sum(asked) for one in asked]
    counts = [int(one) for one in exact]
    # The rows that rounding leaves go to the largest remainders (Hamilton's method).
    by_remainder = sorted(range(len(exact)), key=lambda one: counts[one] - exact[one])
    for one in by_remainder[: PERIOD - sum(counts)]:
        counts[one] += 1
    if not all(counts):
        raise UserError(
            f"--config.data.weights={weights or sizes}: a corpus would get less than a row of "
            f"{PERIOD:,}: raise its weight, or leave it out"
        )
    return counts
