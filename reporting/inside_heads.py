"""Heads of each run: a map of the distances that they attend to, and a table of scores."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from reporting.charts import COLORS, Spec, inline, to_spec

# Greatest distance of the map; beyond, single distances have little weight.
MAX_DISTANCE = 15
# Fields of a head's scores, and their columns.
COLUMNS = {
    "previous": "previous token",
    "same": "same token",
    "induction": "induction",
    "entropy": "entropy",
    "cost": "loss without it",
}


def label(head: Mapping[str, Any]) -> str:
    """Returns a head's name, its layer and its number there: 2.1."""
    return f"{head['layer']}.{head['head']}"


def spectrum(runs: Mapping[str, Mapping[str, Any]]) -> Spec:
    """Draws the mean weight of each head at each distance from the query."""
    rows = [
        {"head": f"{name} {label(head)}", "distance": distance, "weight": weight}
        for name, run in runs.items()
        for head in run["heads"]
        for distance, weight in enumerate(head["spectrum"][: MAX_DISTANCE + 1])
    ]
    names = list(dict.fromkeys(row["head"] for row in rows))
    x = alt.X("distance:O", title="Tokens back", axis=alt.Axis(labelAngle=0))
    y = alt.Y("head:N", title=None, sort=names)
    weight = alt.Tooltip("weight:Q", format=".2f")
    base = inline(rows).encode(x, y, tooltip=["head:N", "distance:O", weight])
    opacity = alt.Opacity("weight:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0.04, 1]))
    cell = base.mark_rect(color=COLORS[0]).encode(opacity)
    # Below 0.1, and where a cell is narrower, the shade is enough.
    text = base.transform_filter("datum.weight >= 0.1").mark_text(fontSize=10, color="currentColor")
    shown = alt.condition("width >= 420", alt.Text("weight:Q", format=".2f"), alt.value(""))
    what = "Mean attention weight of each head at each distance from the query."
    return to_spec(alt.layer(cell, text.encode(text=shown)), 20 * len(names), what)


def cells(head: Mapping[str, Any]) -> dict[str, str]:
    """Returns a head's scores as texts, by COLUMNS."""
    shown = {field: f"{head[field]:.2f}" for field in COLUMNS}
    return {**shown, "cost": f"{head['cost']:+.3f} ± {head['cost_error'] or 0:.3f}"}


def chance(run: Mapping[str, Any]) -> dict[str, str]:
    """Returns the scores of uniform weights as texts, by COLUMNS; none for the loss."""
    shown = {**run["chance"], "entropy": run["uniform_entropy"]}
    return {field: f"{shown[field]:.2f}" if field in shown else "" for field in COLUMNS}
