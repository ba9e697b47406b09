"""Tested differences between groups of runs: a sentence for each pair; a matrix for many."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reporting.statistics import Difference, Groups

# Groups of which each pair gets a sentence, at most.
FEW = 3


@dataclass(frozen=True)
class Matrix:
    """Differences of all pairs, by row and column: the row's mean minus the column's."""

    names: list[str]
    cells: dict[tuple[str, str], Difference]
    test: str

    @property
    def num_pairs(self) -> int:
        """The number of tests."""
        return len(self.cells) // 2


def matrix(differences: Sequence[Difference]) -> Matrix | None:
    """Returns the matrix of all pairs of more than `FEW` groups; else None."""
    names = _names(differences)
    if len(names) <= FEW or len(differences) < len(names) * (len(names) - 1) // 2:
        return None
    both_ways = [found for one in differences for found in (one, -one)]
    return Matrix(
        names, {(found.one, found.other): found for found in both_ways}, both_ways[0].test
    )


def sentences(differences: Sequence[Difference], groups: Groups, is_ladder: bool) -> list[str]:
    """Describes each difference; where they make a matrix, counts them.

    Of a ladder, whose groups are in the order of its stages, also describes neighbours then.
    """
    table = matrix(differences)
    if table is None:
        return [_sentence(found, groups) for found in differences]
    count = sum(found.significant for found in differences)
    told = [
        f"Of {table.num_pairs} pairs {count} differ statistically significantly ({table.test}): "
        "the matrix of the report's page has all of them."
    ]
    if is_ladder:
        told += [_sentence(table.cells[later, one], groups) for one, later in pairwise(table.names)]
    return told


def _names(differences: Sequence[Difference]) -> list[str]:
    return list(dict.fromkeys(name for found in differences for name in _pair(found)))


def _pair(found: Difference) -> tuple[str, str]:
    return found.one, found.other


def _sentence(found: Difference, groups: Groups) -> str:
    counts = sorted({len(groups[found.one]), len(groups[found.other])})
    is_below = found.mean < 0
    distance = -found if is_below else found
    return (
        f"{found.one} is {distance.mean:.3f} {'below' if is_below else 'above'} "
        f"{found.other} (95 % interval {distance.low:.3f} to {distance.high:.3f}): "
        f"{'' if found.significant else 'not '}statistically significant "
        f"({found.test}, {' and '.join(map(str, counts))} seeds)."
    )


def baselines(names: Collection[str]) -> dict[str, str]:
    """Returns the experiment that each of the others extends by presets.

    Empty unless each experiment extends one of a few, or is one that the others extend.
    """
    presets = {name: set(re.split("[:+]", name)) for name in names}
    found = {
        name: min((one for one in names if presets[one] < own), key=len, default="")
        for name, own in presets.items()
    }
    extended = {name: base for name, base in found.items() if base}
    return extended if set(extended.values()) | extended.keys() == set(names) else {}
