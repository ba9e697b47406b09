"""Section "Who knew it?": a passage, each character marked with the stage that knows it first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reporting.inside_parts import Inside, Section, colors
from reporting.inside_tokens import on_one_text

READING = (
    "The digit below a character is the first model from which on every model's best guess is that "
    "character; none guesses a character marked with a dot. Point at a character, or move with the "
    "arrow keys, to see all guesses."
)
OF_LONGER_TOKENS = " A model whose tokens are longer guesses all characters of one at once."


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None for fewer than two runs on the same text."""
    same, _ = on_one_text(insides)
    if len(same) < 2:
        return None
    passages = [inside.views["passage"] for inside in same]
    finest, cells, at = aligned(passages)
    if not len(cells):
        return None
    pieces = [finest["pieces"][cell] for cell in cells]
    rights = [
        [passage["right"][token] for token in tokens]
        for passage, tokens in zip(passages, at, strict=True)
    ]
    known = known_from(rights)
    shades = colors(insides)
    keys = ("pieces", "p", "guesses", "p_guesses")
    counts = [known.count(place) for place in range(len(same) + 1)]
    has_longer = any(passage["bytes"] != finest["bytes"] for passage in passages)
    return Section(
        name="passage",
        title="Who knew it?",
        question="From which model on does the best guess stay right?",
        reading=READING + OF_LONGER_TOKENS * has_longer,
        data={
            "pieces": pieces,
            "known": known,
            "models": [
                {"name": inside.name, "at": tokens, **{key: passage[key] for key in keys}}
                for inside, passage, tokens in zip(same, passages, at, strict=True)
            ],
            "colors": [shades[inside.name] for inside in same],
            "legend": [
                {"digit": f"{place + 1}", "name": inside.name, "count": counts[place]}
                for place, inside in enumerate(same)
            ],
            "never": counts[-1],
        },
    )


def aligned(
    passages: Sequence[dict[str, Any]],
) -> tuple[dict[str, Any], list[int], list[list[int]]]:
    """Returns the passage with the shortest tokens, those that are shown, and each run's tokens.

    Tokens of the other runs are those that the shown ones begin in.
    """
    ends = [passage["begin"] + np.cumsum(passage["bytes"]) for passage in passages]
    begins = [end - passage["bytes"] for end, passage in zip(ends, passages, strict=True)]
    first, last = max(begin[0] for begin in begins), min(end[-1] for end in ends)
    finest = int(np.argmin([np.mean(passage["bytes"]) for passage in passages]))
    cells = np.flatnonzero((begins[finest] >= first) & (ends[finest] <= last))
    at = [np.searchsorted(end, begins[finest][cells], side="right").tolist() for end in ends]
    return passages[finest], cells.tolist(), at


def known_from(rights: Sequence[Sequence[int]]) -> list[int]:
    """Returns for each character the first run from which on all are right; their number if none.

    `rights` has a row a run, in the order of stages.
    """
    known = [len(rights)] * len(rights[0])
    for place in range(len(rights) - 1, -1, -1):
        for i, is_right in enumerate(rights[place]):
            if is_right and known[i] == place + 1:
                known[i] = place
    return known
