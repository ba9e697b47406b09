"""Made texts: how far each stage's loss is above a text's floor, which the runs' folders hold.

The floor is the loss of the text's own generator (input_pipeline/made_texts.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import altair as alt

from reporting.charts import COLORS, Rows, Spec, inline, to_spec
from reporting.runs import Run, group_by, number, sanitize

FLOOR = "val_floor"  # In environment.json.
HEADING = "Gap of each stage above the floor of each text, in nats (in brackets: that floor)"
# Opacity of a cell with the greatest gap: its number stays readable, on light and on dark.
DARKEST = 0.6
ROW_HEIGHT = 46


@dataclass(frozen=True)
class Gap:
    """Mean validation loss over seeds, minus the floor, of a model on a made text."""

    text: str
    model: str
    floor: float
    gap: float
    seeds: int


def gaps(settings: Sequence[list[Run]]) -> list[Gap]:
    """Returns the gaps of settings, each of which is a list of runs that differ in the seed.

    Empty unless all runs have a floor, there are several texts, and no text has two settings of
    one model.
    """
    found = [gap for group in settings if (gap := _gap(group))]
    cells = {(one.text, one.model) for one in found}
    is_whole = len(found) == len(settings) == len(cells)
    return found if is_whole and len({one.text for one in found}) > 1 else []


def _gap(group: list[Run]) -> Gap | None:
    """Returns the gap of one setting; None if its floor or a loss is unknown."""
    floors = {number(run.environment.get(FLOOR)) for run in group}
    losses = [loss for run in group if (loss := run.last("val/loss")) is not None]
    floor = floors.pop()
    if floor is None or floors or len(losses) < len(group):
        return None
    text = sanitize(group[0].config.get("data.name", "")).removeprefix("made:")
    model = sanitize(group[0].config.get("model.name", "?"))
    return Gap(text, model, floor, fmean(losses) - floor, len(group))


def statements(found: Sequence[Gap]) -> list[str]:
    """Says of each text which model lowers the gap most, compared with the one before it."""
    told = []
    for text, of_text in group_by(found, lambda gap: gap.text).items():
        floor = f"{text}: the floor is {of_text[0].floor:.3f} nats"
        steps = list(pairwise(of_text))
        if not steps:
            told.append(f"{floor}, and {of_text[0].model} is {of_text[0].gap:.3f} above it.")
            continue
        before, after = max(steps, key=lambda step: step[0].gap - step[1].gap)
        fewest = min(of_text, key=lambda gap: gap.gap)
        told.append(
            f"{floor}. The gap falls most from {before.model} to {after.model}, from "
            f"{before.gap:.3f} to {after.gap:.3f} nats; it is least for {fewest.model}: "
            f"{fewest.gap:.3f}."
        )
    return told


def chart(found: Sequence[Gap]) -> Spec:
    """Draws the matrix of the gaps: texts by models."""
    rows: Rows = [
        {"text": f"{one.text} ({one.floor:.3f})", "model": one.model, "gap": one.gap}
        for one in found
    ]
    order = {name: list(dict.fromkeys(row[name] for row in rows)) for name in ("text", "model")}
    x_axis = alt.Axis(
        orient="top", labelAngle=0, labelExpr="split(datum.label, '_')", labelFontSize=11
    )
    y_axis = alt.Axis(labelExpr="split(datum.label, ' ')", labelFontSize=11)
    plain = {"ticks": False, "domain": False, "labelPadding": 6, "labelOverlap": False}
    x_axis, y_axis = (alt.Axis(**axis.to_dict(), **plain) for axis in (x_axis, y_axis))
    base = inline(rows).encode(
        alt.X("model:N", title=None, sort=order["model"], axis=x_axis),
        alt.Y("text:N", title=None, sort=order["text"], axis=y_axis),
    )
    greatest = max(row["gap"] for row in rows)
    opacity = alt.Scale(domain=[0, greatest], range=[0, DARKEST], clamp=True)
    cells = base.mark_rect(color=COLORS[1]).encode(
        alt.Opacity("gap:Q", scale=opacity, legend=None),
        tooltip=["text:N", "model:N", alt.Tooltip("gap:Q", format=".4f")],
    )
    numbers = base.mark_text(color="currentColor", fontSize=13).encode(
        alt.Text("gap:Q", format=".3f")
    )
    height = ROW_HEIGHT * len(order["text"])
    return to_spec(cells + numbers, height, "Gap above the floor, of each model on each text.")
