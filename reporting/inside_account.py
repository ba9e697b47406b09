"""Section "What it bought": the loss from stage to stage by kind of character, which adds up."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import altair as alt
import numpy as np

from reporting import inside_tokens
from reporting.charts import COLORS, LEGEND_COLUMNS, TICKS, inline, to_spec
from reporting.inside_parts import Figure, Inside, Section
from reporting.inside_tokens import Aligned

UNIFORM = "no model"
# Those of COLORS, then the first ones again, lighter: ten kinds side by side.
SHADES = COLORS


class Step(NamedTuple):
    """Gain of one run over the one before it: nats per token or byte, in all and by kind."""

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
    same, left_out = inside_tokens.on_one_text(insides)
    if not same:
        return None
    aligned = inside_tokens.align(same)
    if not aligned.num:
        return None
    kinds = [name for place, name in enumerate(aligned.names) if place in aligned.kinds_M]
    return Section(
        name="account",
        title="What it bought",
        question="Which characters does each step of the ladder make easier?",
        reading="Each row is the fall of the loss from one model to the next, in parts by kind of "
        "character that add up to it; a part left of zero is a kind that the step makes worse. "
        "The first row starts from the uniform distribution."
        + " A token of several characters is of the kind of its first."
        * (aligned.unit == "byte"),
        figures=[account(aligned, kinds), *flipped(aligned)],
        left_out=left_out,
    )


def steps(aligned: Aligned) -> list[Step]:
    """Returns the step from the uniform distribution to the first run, and those between runs."""
    num_kinds = len(aligned.names)

    def by_kind(nats_M: np.ndarray) -> np.ndarray:
        return np.bincount(aligned.kinds_M, nats_M, num_kinds) / aligned.num

    made = []
    before = by_kind(aligned.uniform_M)
    for inside, nats_M in zip(aligned.insides, aligned.nats_RM, strict=True):
        after = by_kind(nats_M)
        gains = dict(zip(aligned.names, (before - after).tolist(), strict=True))
        made.append(Step(inside.name, before.sum(), after.sum(), gains))
        before = after
    return made


def account(aligned: Aligned, kinds: Sequence[str]) -> Figure:
    """Draws each step as a row, stacked by kind."""
    found = steps(aligned)
    rows = [
        {"step": f"{place}. {step.name}", "kind": kind, "order": kinds.index(kind), "gain": gain}
        for place, step in enumerate(found, start=1)
        for kind, gain in step.gains.items()
        if kind in kinds
    ]
    title = f"Nats per {aligned.unit} gained"
    chart = inline(rows).mark_bar(height=26)
    chart = chart.encode(
        alt.X("sum(gain):Q", title=title, axis=alt.Axis(tickCount=TICKS)),
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


def flips(aligned: Aligned) -> list[Flips]:
    """Returns what neighbouring runs guess right, and their neighbour does not."""
    names = [inside.name for inside in aligned.insides]
    shares_M = aligned.lengths_M / aligned.num
    return [
        Flips(one, later, shares_M[b & ~a].sum(), shares_M[a & ~b].sum())
        for (one, a), (later, b) in pairwise(zip(names, aligned.is_right_RM, strict=True))
    ]


def flipped(aligned: Aligned) -> list[Figure]:
    """Draws the shares of guesses that each step wins and loses; none for one run."""
    found = flips(aligned)
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
        alt.X("share:Q", title="Share of the text", axis=percent),
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
