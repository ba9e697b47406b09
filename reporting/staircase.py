"""Staircase of a ladder: a bar from the loss of each stage to that of the next."""

import math
from collections.abc import Sequence
from statistics import fmean

import altair as alt

from reporting import rows
from reporting.charts import COLORS, TICKS, Rows, Spec, inline, to_spec
from reporting.groups import group_seeds
from reporting.runs import Run, group_by, sanitize


def ladder(runs: Sequence[Run]) -> Spec | None:
    """Returns the spec for runs of two stages or more on one text.

    None if a stage has runs that differ in more than the seed, or if the runs are a sweep's.
    """
    runs = [run for run in runs if run.last("val/loss") is not None]
    stages = group_by(runs, lambda run: run.stage)
    if len(stages) < 2 or 0 in stages or any(run.sweep_id for run in runs):
        return None
    if any(
        len(group_seeds(group)) > 1 or group[0].task != runs[0].task for group in stages.values()
    ):
        return None
    vocab_size = runs[0].vocab_size
    before = math.log(vocab_size) if vocab_size else None
    steps: Rows = []
    for stage in sorted(stages):
        group = stages[stage]
        loss = fmean(rows.finite(group, "val/loss"))
        if before is not None:
            steps.append({"name": _label(group, loss - before, runs), **step(before, loss)})
        before = loss
    base = inline(steps)
    # A name and its gain are lines of one label, so that no number overlaps a bar.
    axis = alt.Axis(labelExpr="split(datum.label, '\\n')", labelLineHeight=15)
    y = alt.Y("name:N", title=None, sort=[row["name"] for row in steps], axis=axis)
    chart = alt.layer(bars(base, y, steps))
    return to_spec(chart, 42 * len(steps), "Loss of each stage, from that of the one before it.")


def _label(group: Sequence[Run], gain: float, runs: Sequence[Run]) -> str:
    if not group[1:]:
        return f"{group[0].name}\n{rows.gain_text(group[0], rows.baseline(group[0], runs))}"
    name = sanitize(group[0].config.get("model.name", "?"))
    return f"{name}, {len(group)} seeds\n{gain:+.2f} nats"


def step(before: float, loss: float) -> dict[str, float]:
    """Returns the fields of a bar from one loss to another."""
    return {"from": before, "to": loss, "change": loss - before}


def bars(base: alt.Chart, y: alt.Y, steps: Rows) -> alt.Chart:
    """Draws a bar for each of the steps: green if the loss falls, else red."""
    ends = [row[end] for row in steps for end in ("from", "to")]
    x = alt.X("from:Q", title="Nats per token", axis=alt.Axis(tickCount=TICKS))
    x = x.scale(domain=[min(ends) - 0.15, max(ends) + 0.05], nice=False, zero=False)
    fall = alt.condition("datum.change < 0", alt.value(COLORS[2]), alt.value(COLORS[6]))
    return base.mark_bar(height=18).encode(x, alt.X2("to:Q"), y, color=fall)
