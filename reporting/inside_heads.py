"""Section "Heads": what each head attends to, and what it buys."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reporting.charts import COLORS, TICKS, Spec, inline, to_spec
from reporting.inside_parts import Figure, Inside, Section, colors, with_view

# Greatest distance of the map; beyond, single distances have little weight.
MAX_DISTANCE = 15
# Fields of a head's scores, and their columns.
COLUMNS = {
    "previous": "previous token",
    "same": "same token",
    "induction": "induction",
    "entropy": "entropy",
}


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None without attention."""
    runs = {inside.name: inside.views["heads"] for inside in with_view(insides, "heads")}
    if not runs:
        return None
    without = [inside.name for inside in insides if inside.name not in runs]
    left_out = [f"{name} is left out of the heads: it has no attention" for name in without]
    known = {name: run for name, run in runs.items() if run["heads"][0]["cost"] is not None}
    left_out += [
        f"{name} is left out of what each head buys: switching off its {len(run['heads'])} heads "
        "in turn would take too long"
        for name, run in runs.items()
        if name not in known
    ]
    return Section(
        name="heads",
        title="Heads",
        question="What does each head look at, and what does it buy?",
        reading="Point at a character, or choose it with the arrow keys: below, each head, named "
        "by its layer and its number there, shades the characters that it attends to from it.",
        figures=[
            Figure(
                "How far back each head looks: mean weight by distance, 0 the query itself",
                spectrum(runs),
                ["head", *COLUMNS.values(), *(f"{back} back" for back in range(MAX_DISTANCE + 1))],
                [row for name, run in runs.items() for row in table(name, run)],
            ),
            *([bought(known, colors(insides))] if known else []),
        ],
        data={name: {key: run[key] for key in ("pieces", "weights")} for name, run in runs.items()},
        left_out=left_out,
    )


def named(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Returns all heads by their names, the run's, the layer and the number: gpt2 2.1."""
    return {
        f"{name} {head['layer']}.{head['head']}": head
        for name, run in runs.items()
        for head in run["heads"]
    }


def spectrum(runs: Mapping[str, Mapping[str, Any]]) -> Spec:
    """Draws the mean weight of each head at each distance from the query."""
    rows = [
        {"head": name, "distance": distance, "weight": weight}
        for name, head in named(runs).items()
        for distance, weight in enumerate(head["spectrum"][: MAX_DISTANCE + 1])
    ]
    names = list(named(runs))
    x = alt.X("distance:O", title="Tokens back", axis=alt.Axis(labelAngle=0))
    y = alt.Y("head:N", title=None, sort=names)
    weight = alt.Tooltip("weight:Q", format=".2f")
    base = inline(rows).encode(x, y, tooltip=["head:N", "distance:O", weight])
    opacity = alt.Opacity("weight:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0.04, 1]))
    cell = base.mark_rect(color=COLORS[0]).encode(opacity)
    # Below 0.1, and where cells are narrow, the shade is enough.
    text = base.transform_filter("datum.weight >= 0.1").mark_text(fontSize=10, color="currentColor")
    shown = alt.condition("width >= 420", alt.Text("weight:Q", format=".2f"), alt.value(""))
    what = "Mean attention weight of each head at each distance from the query."
    return to_spec(alt.layer(cell, text.encode(text=shown)), 20 * len(names), what)


def bought(runs: Mapping[str, Mapping[str, Any]], shades: Mapping[str, str]) -> Figure:
    """Returns the figure of what each head buys."""
    return Figure(
        "What each head buys: by how many nats the loss rises when its output is its mean",
        costs(runs, shades),
        ["head", "loss without it"],
        [
            [name, f"{head['cost']:+.3f} ± {head['cost_error'] or 0:.3f}"]
            for name, head in named(runs).items()
        ],
    )


def costs(runs: Mapping[str, Mapping[str, Any]], shades: Mapping[str, str]) -> Spec:
    """Draws by how much the loss rises without each head, with two standard errors."""
    rows = [
        {
            "head": name,
            "run": name.rpartition(" ")[0],
            "cost": head["cost"],
            "low": head["cost"] - 2 * (head["cost_error"] or 0),
            "high": head["cost"] + 2 * (head["cost_error"] or 0),
        }
        for name, head in named(runs).items()
    ]
    x = alt.X("cost:Q", title="Nats per token", axis=alt.Axis(tickCount=TICKS))
    y = alt.Y("head:N", title=None, sort=[row["head"] for row in rows])
    color = alt.Color("run:N", legend=None).scale(domain=[*runs], range=[shades[x] for x in runs])
    tooltip = ["head:N", alt.Tooltip("cost:Q", format="+.3f")]
    bar = inline(rows).mark_bar().encode(x, y, color, tooltip=tooltip)
    rule = inline(rows).mark_rule(strokeWidth=2, color="currentColor")
    what = "Rise of the loss if a head's output is replaced by its mean."
    return to_spec(
        alt.layer(bar, rule.encode(alt.X("low:Q"), alt.X2("high:Q"), y)), 20 * len(rows), what
    )


def table(name: str, run: Mapping[str, Any]) -> list[list[str]]:
    """Returns a row for each head with what it attends to, and one for uniform weights."""
    rows = [
        [
            head_name,
            *(f"{head[field]:.2f}" for field in COLUMNS),
            *(f"{weight:.2f}" for weight in head["spectrum"][: MAX_DISTANCE + 1]),
        ]
        for head_name, head in named({name: run}).items()
    ]
    chance = {**run["chance"], "entropy": run["uniform_entropy"]}
    uniform = [f"{chance[field]:.2f}" for field in COLUMNS]
    return [*rows, [f"{name} uniform", *uniform, *[""] * (MAX_DISTANCE + 1)]]
