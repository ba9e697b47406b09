"""Section "What it bought": the loss from stage to stage by kind of character, which adds up."""

import base64
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import altair as alt
import numpy as np

from reporting.charts import COLORS, LEGEND_COLUMNS, TICKS, inline, to_spec
from reporting.inside_parts import Figure, Inside, Section, alike

UNIFORM = "no model"
# Those of COLORS, then the first ones again, lighter: ten kinds side by side.
SHADES = COLORS


class Step(NamedTuple):
    """Gain of one run over the one before it: nats per token, in all and by kind."""

    name: str
    before: float
    loss: float
    gains: dict[str, float]  # Positive where the loss falls.


class Flips(NamedTuple):
    """Share of best guesses that became right, and that became wrong, from a run to the next."""

    one: str
    later: str
    won: float
    lost: float


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None without a run."""
    same, _ = alike(insides)
    if not same:
        return None
    found = steps(same)
    kinds = [name for name, count in kinds_of(same[0]).items() if count]
    return Section(
        name="account",
        title="What it bought",
        question="Which characters does each step of the ladder make easier?",
        reading="Each row is the fall of the loss from one model to the next, in parts by kind of "
        "character that add up to it; a part left of zero is a kind that the step makes worse. "
        "The first row starts from the uniform distribution.",
        figures=[account(found, kinds), *flipped(same)],
    )


def kinds_of(inside: Inside) -> dict[str, int]:
    """Returns the number of tokens of each kind."""
    view = inside.views["account"]
    return dict(zip(view["kinds"], view["counts"], strict=True))


def steps(same: Sequence[Inside]) -> list[Step]:
    """Returns the step from the uniform distribution to the first run, and those between runs."""
    first = same[0].views["account"]
    num = first["num"]
    uniform = np.array(first["counts"], float) * first["uniform"]
    made = []
    before = uniform
    for inside in same:
        nats = np.array(inside.views["account"]["nats"], float)
        gains = dict(zip(first["kinds"], ((before - nats) / num).tolist(), strict=True))
        made.append(Step(inside.name, before.sum() / num, nats.sum() / num, gains))
        before = nats
    return made


def account(found: Sequence[Step], kinds: Sequence[str]) -> Figure:
    """Draws each step as a row, stacked by kind."""
    rows = [
        {"step": f"{place}. {step.name}", "kind": kind, "order": kinds.index(kind), "gain": gain}
        for place, step in enumerate(found, start=1)
        for kind, gain in step.gains.items()
        if kind in kinds
    ]
    chart = inline(rows).mark_bar(height=26)
    chart = chart.encode(
        alt.X("sum(gain):Q", title="Nats per token gained", axis=alt.Axis(tickCount=TICKS)),
        alt.Y("step:N", title=None, sort=[row["step"] for row in rows]),
        alt.Color("kind:N", title=None, sort=list(kinds))
        .legend(orient="bottom", columns=LEGEND_COLUMNS, labelLimit=200)
        .scale(domain=list(kinds), range=SHADES),
        alt.Order("order:Q"),
        tooltip=["step:N", "kind:N", alt.Tooltip("gain:Q", format="+.4f")],
    )
    return Figure(
        "Nats gained, by kind of character",
        to_spec(chart, 44 * len(found), "Nats gained by each step, by kind of character."),
        ["", *(step.name for step in found)],
        [
            ["loss before", *(f"{step.before:.3f}" for step in found)],
            *([kind, *(f"{-step.gains[kind]:+.4f}" for step in found)] for kind in kinds),
            ["loss after", *(f"{step.loss:.3f}" for step in found)],
        ],
    )


def flips(same: Sequence[Inside]) -> list[Flips]:
    """Returns what neighbouring runs guess right, and their neighbour does not."""
    made = []
    for one, later in pairwise(same):
        a, b = _right(one), _right(later)
        made.append(Flips(one.name, later.name, (b & ~a).mean(), (a & ~b).mean()))
    return made


def _right(inside: Inside) -> np.ndarray:
    view = inside.views["account"]
    packed = np.frombuffer(base64.b64decode(view["right"]), np.uint8)
    return np.unpackbits(packed, count=view["num"]).astype(bool)


def flipped(same: Sequence[Inside]) -> list[Figure]:
    """Draws the shares of guesses that each step wins and loses; none for one run."""
    found = flips(same)
    if not found:
        return []
    rows = [
        {"step": f"{one.one} to {one.later}", "what": what, "share": share}
        for one in found
        for what, share in (("became right", one.won), ("became wrong", -one.lost))
    ]
    chart = inline(rows).mark_bar(height=22)
    percent = alt.Axis(format="%", tickCount=TICKS)
    chart = chart.encode(
        alt.X("share:Q", title="Share of characters", axis=percent),
        alt.Y("step:N", title=None, sort=[row["step"] for row in rows]),
        alt.Color("what:N", title=None)
        .legend(orient="bottom", columns=LEGEND_COLUMNS)
        .scale(domain=["became right", "became wrong"], range=[COLORS[2], COLORS[6]]),
        tooltip=["step:N", "what:N", alt.Tooltip("share:Q", format="+.1%")],
    )
    return [
        Figure(
            "Guesses won and lost",
            to_spec(chart, 44 * len(found), "Share of best guesses that become right, and wrong."),
            ["step", "became right", "became wrong"],
            [[f"{one.one} to {one.later}", f"{one.won:.1%}", f"{one.lost:.1%}"] for one in found],
        )
    ]
