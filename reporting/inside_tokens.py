"""Aligns runs on one text: it is cut where a token ends in each of them.

Runs with the same tokens are cut into these. A character is the first part of one token, a word of
another: there the word is a part, and the characters' nats add up to its own.
"""

import base64
import zlib
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from reporting.inside_parts import Inside, with_view


class Aligned(NamedTuple):
    """Runs R on one text in parts M."""

    insides: list[Inside]
    names: list[str]  # Of the kinds.
    unit: str  # What nats are divided by.
    num: int  # How many of them the parts have.
    lengths_M: np.ndarray  # In that unit.
    kinds_M: np.ndarray  # Of the first character.
    uniform_M: np.ndarray  # Nats of the uniform distribution over the first run's tokens.
    nats_RM: np.ndarray
    is_right_RM: np.ndarray


def unpacked(text: str, dtype: str) -> np.ndarray:
    """Returns the array that inspection/tokens.py packed."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def on_one_text(insides: Sequence[Inside]) -> tuple[list[Inside], list[str]]:
    """Returns the runs on the text that most have, and a line for each other one."""

    def text(view: dict[str, Any]) -> tuple[str, int]:
        # Not every tokenizer gives all bytes back.
        return view["text"], int(unpacked(view["bytes"], "<u4").sum())

    by_text: dict[tuple[str, int], list[Inside]] = {}
    known = with_view(insides, "tokens")
    for inside in known:
        by_text.setdefault(text(inside.views["tokens"]), []).append(inside)
    same = max(by_text.values(), key=len, default=[])
    return same, [
        f"{inside.name} is left out of the passage and of what each step bought: it was measured "
        "on another text than the others"
        for inside in known
        if inside not in same
    ]


def align(insides: Sequence[Inside]) -> Aligned:
    """Returns runs on one text, aligned."""
    views = [inside.views["tokens"] for inside in insides]
    first = views[0]
    ends = [np.cumsum(unpacked(view["bytes"], "<u4").astype(np.int64)) for view in views]
    # What ends with the first tokens is not predicted.
    cuts = reduce(np.intersect1d, ends)
    num = len(cuts) - 1
    counts, nats, is_right = [], [], []
    for view, end in zip(views, ends, strict=True):
        part = np.searchsorted(cuts, end[1:]) - 1
        is_in = part >= 0
        part = part[is_in]
        nats.append(np.bincount(part, unpacked(view["nats"], "<f4")[is_in].astype(float), num))
        wrong = 1 - unpacked(view["right"], "u1")[is_in]
        is_right.append(np.bincount(part, wrong, num) == 0)
        counts.append(np.bincount(part, minlength=num))
    begins = np.searchsorted(ends[0], cuts[:-1]) + 1  # Tokens of the first run.
    are_alike = len({view["units"] for view in views}) == 1
    lengths = np.ones(num, np.int64) if are_alike else np.diff(cuts)
    return Aligned(
        insides=list(insides),
        names=list(first["names"]),
        unit="token" if are_alike else "byte",
        num=int(lengths.sum()),
        lengths_M=lengths,
        kinds_M=unpacked(first["kinds"], "u1")[begins],
        uniform_M=counts[0] * float(first["uniform"]),
        nats_RM=np.stack(nats),
        is_right_RM=np.stack(is_right),
    )
