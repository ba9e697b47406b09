"""Made texts: how far each stage's loss is above a text's floor, which the runs' folders hold.

The floor is the loss of the text's own generator (input_pipeline/made_texts.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import altair as alt

from reporting.charts import COLORS, Rows, Spec, inline, to_spec
from reporting.runs import Run, group_by, number, sanitize

FLOOR = "val_floor"  # In environment.json.
HEADING = "Gap of each stage above the floor of each text, in nats (in brackets: that floor)"
# Opacity of a cell with the greatest gap: its number stays readable, on light and on dark.
DARKEST = 0.6
ROW_HEIGHT, LINE_HEIGHT = 46, 13
# A model with a smaller gap has learned the text.
NEAR = 0.1


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
    """Says of each text which model is the first near its floor, and how far the one before is."""
    told = []
    for text, of_text in group_by(found, lambda gap: gap.text).items():
        floor = f"{text}: the floor is {of_text[0].floor:.3f} nats"
        place = next((i for i, one in enumerate(of_text) if one.gap < NEAR), None)
        if place is None:
            told.append(f"{floor}, and no model comes within {NEAR} nats of it.")
            continue
        first = of_text[place]
        sentence = f"{floor}; the first model within {NEAR} nats of it is {first.model}"
        sentence += f", {first.gap:.3f} above"
        if place:
            before = of_text[place - 1]
            sentence += f"; {before.model}, before it, is {before.gap:.3f} above"
        told.append(f"{sentence}.")
    return told


def chart(found: Sequence[Gap]) -> Spec:
    """Draws the matrix of the gaps: texts by models."""
    rows: Rows = [
        {"text": f"{one.text} ({one.floor:.3f})", "model": one.model, "gap": one.gap}
        for one in found
    ]
    order = {name: list(dict.fromkeys(row[name] for row in rows)) for name in ("text", "model")}
    plain = {"ticks": False, "domain": False, "labelOverlap": False, "labelFontSize": 11}
    # A line for each word of a name; Vega leaves room for fewer of them.
    lines = max(model.count("_") for model in order["model"])
    x_axis = alt.Axis(
        orient="top",
        labelAngle=0,
        labelExpr="split(datum.label, '_')",
        labelPadding=6 + LINE_HEIGHT * lines,
        **plain,
    )
    y_axis = alt.Axis(labelExpr="split(datum.label, ' ')", labelPadding=6, **plain)
    base = inline(rows).encode(
        alt.X("model:N", title=None, sort=order["model"], axis=x_axis),
        alt.Y("text:N", title=None, sort=order["text"], axis=y_axis),
    )
    greatest = max(NEAR, *(row["gap"] for row in rows))
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
