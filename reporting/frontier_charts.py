"""Charts of a frontier: each stage's loss over the budget, and its gain at one of them."""

import math
from collections.abc import Sequence
from statistics import fmean

import altair as alt
import numpy as np

from reporting import staircase
from reporting.charts import (
    AXIS_LABEL,
    COLORS,
    LOSSES,
    TICKS,
    Rows,
    Spec,
    inline,
    log_ticks,
    to_spec,
)
from reporting.frontier import Frontier, crossing, show

TITLES = {"FLOPs": "Floating-point operations of training", "tokens": "Tokens seen"}


def charts(found: Sequence[Frontier], vocab_size: int | None) -> dict[str, Spec]:
    """Returns the specs by heading, those of each optimizer together."""
    specs = {}
    for frontier in found:
        unit, optimizer = frontier.unit, frontier.optimizer
        what = "compute" if unit == "FLOPs" else "tokens"
        heading = f"Loss against {what} with {optimizer}: mean and range over seeds, and crossings"
        specs[heading] = curves(frontier)
        heading = f"Gain of each stage with {optimizer} at equal {what}: choose the budget"
        specs[heading] = waterfall(frontier, vocab_size)
    return specs


def curves(frontier: Frontier) -> Spec:
    """Draws a line for each stage, dashed past its last budget, and a ring at each crossing."""
    rows: Rows = []
    flat: Rows = []
    end = float(frontier.budgets[-1])
    for curve in frontier.curves:
        for budget, values in zip(curve.budgets, curve.losses, strict=True):
            point = {"x": float(budget), "of": curve.name, "mean": fmean(values)}
            rows.append({**point, "low": min(values), "high": max(values), "seeds": len(values)})
        last = {"of": curve.name, "mean": rows[-1]["mean"]}
        if rows[-1]["x"] < end:
            flat += [{**last, "x": rows[-1]["x"]}, {**last, "x": end}]
    names = [curve.name for curve in frontier.curves]
    budgets: Rows = [{"x": row["x"]} for row in rows]
    ticks = [tick for tick in log_ticks(budgets, "x") if tick <= end]
    x = alt.X(
        "x:Q", title=TITLES[frontier.unit], scale=alt.Scale(type="log", nice=False, padding=20)
    )
    x = x.axis(labelExpr=AXIS_LABEL["flops"], tickCount=TICKS, values=ticks)
    scale = alt.Scale(zero=False, nice=False, padding=10)
    y = alt.Y("mean:Q", title=LOSSES["val"][1], scale=scale)
    # The band's opacity is not the legend's.
    color = alt.Color("of:N", title=None, legend=alt.Legend(symbolOpacity=1))
    color = color.scale(domain=names, range=COLORS)
    base = inline(rows).encode(x, color)
    tooltip = [
        *(alt.Tooltip("of:N", title="stage"), alt.Tooltip("x:Q", title="budget", format=".2g")),
        alt.Tooltip("mean:Q", format=".4f"),
        *(alt.Tooltip(f"{name}:Q", format=".4f") for name in ("low", "high")),
        "seeds:Q",
    ]
    layers = [
        base.mark_area(opacity=0.25).encode(alt.Y("low:Q", scale=scale), alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2).encode(y),
        base.mark_point(filled=True, size=50, opacity=1).encode(y, tooltip=tooltip),
    ]
    if flat:
        dashed = inline(flat).mark_line(strokeWidth=1.5, strokeDash=[5, 4], opacity=0.7)
        layers.append(dashed.encode(x, y, color))
    marks: Rows = []
    for pair in frontier.pairs:
        found = crossing(pair).budget
        if 0 < found < math.inf:
            means = [fmean(pair.later.at(x)) for x in pair.budgets]
            mean = float(np.interp(np.log(found), np.log(pair.budgets), means))
            text = f"{pair.later.name} lower from {show(found)}"
            marks.append({"x": found, "mean": mean, "text": text})
    if marks:
        rings = inline(marks).encode(x, y)
        layers.append(rings.mark_point(size=140, strokeWidth=1.5, color="currentColor"))
        label = dict(align="right", dx=-12, dy=10, color="currentColor")
        layers.append(rings.mark_text(**label).encode(text="text:N"))
    what = f"Validation loss of each stage against {frontier.unit}, with {frontier.optimizer}."
    return to_spec(alt.layer(*layers), 380, what)


def waterfall(frontier: Frontier, vocab_size: int | None) -> Spec:
    """Draws a bar from the loss of each stage to that of the next, at a budget to be chosen."""
    rows: Rows = []
    for i, budget in enumerate(frontier.budgets):
        before = math.log(vocab_size) if vocab_size else None
        for curve in frontier.curves:
            losses = curve.at(float(budget))
            if not losses:
                continue
            loss = fmean(losses)
            if before is not None:
                at = {"place": i, "budget": f"{show(budget)} {frontier.unit}"}
                rows.append({"name": curve.name, **staircase.step(before, loss), **at})
            before = loss
    last = len(frontier.budgets) - 1
    slider = alt.binding_range(min=0, max=last, step=1, name="budget ")
    place = alt.param(name=f"place_{frontier.optimizer}", value=last, bind=slider)
    base = inline(rows).transform_filter(f"datum.place == place_{frontier.optimizer}")
    names = [curve.name for curve in frontier.curves]
    y = alt.Y("name:N", title=None, sort=names)
    bars = staircase.bars(base, y, rows)
    numbers = base.mark_text(align="right", dx=-6, color="currentColor").encode(
        alt.X("to:Q"), y, alt.Text("change:Q", format="+.3f")
    )
    shown = base.transform_filter(f"datum.name == '{names[-1]}'").mark_text(
        align="right", dx=-4, dy=14, color="currentColor", fontWeight=600, baseline="top"
    )
    shown = shown.encode(x=alt.value(alt.expr("width")), y=alt.value(alt.expr("height - 34")))
    chart = alt.layer(bars, numbers, shown.encode(text="budget:N")).add_params(place)
    what = f"Loss of each stage and the one before it, with {frontier.optimizer}."
    return to_spec(chart, 34 * len(names), what)
