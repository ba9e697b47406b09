"""Section "Growth": what each model resembled while it was trained, and when it learned what."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reporting.charts import COLORS, LEGEND_COLUMNS, Rows, Spec, inline, to_spec
from reporting.inside_parts import Figure, Inside, Section, with_view

SCORES = {"previous": "previous token", "same": "same token", "induction": "induction"}


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None without snapshots. The charts are of the last run."""
    runs = {inside.name: inside.views["growth"] for inside in with_view(insides, "growth")}
    if not runs:
        return None
    name, last = list(runs.items())[-1]
    figures = [nearest(name, runs), kinds(name, last)]
    if any(step["heads"] for step in last["steps"]):
        figures.append(heads(name, last))
    figures += [
        magnitudes(name, last, "gradients", "Norm of the loss's gradient"),
        magnitudes(name, last, "activations", "Root mean square of outputs"),
    ]
    return Section(
        name="growth",
        title="Growth",
        question="Does a model pass through the simpler ones while it is trained?",
        reading=f"The charts show {name} at snapshots of its training. It is nearest to the "
        "lowest line: the n-gram (dashed), or the model of an earlier stage, whose predictions "
        "differ least from its own (Kullback-Leibler divergence). The table has all runs.",
        figures=figures,
        left_out=[
            f"{inside.name} is left out of growth: it kept no snapshots (checkpoint.snapshots)"
            for inside in insides
            if inside.name not in runs
        ],
    )


def lines(
    rows: Rows,
    y: alt.Y,
    order: Sequence[str],
    what: str,
    details: Sequence[str] = (),
    dashed: Sequence[str] = (),
) -> Spec:
    """Draws a line over the updates for each name, and for each value of `details`."""
    x = alt.X("step:Q", title="Updates", scale=alt.Scale(type="log", nice=False))
    shades = [COLORS[i % len(COLORS)] for i in range(len(order))]
    legend = alt.Legend(title=None, orient="bottom", columns=LEGEND_COLUMNS, labelLimit=200)
    color = alt.Color("name:N", legend=legend).scale(domain=[*order], range=shades)
    dashes = [[5, 3] if name in dashed else [1, 0] for name in order]
    dash = alt.StrokeDash("name:N", legend=legend).scale(domain=[*order], range=dashes)
    value = alt.Tooltip(y.shorthand, format=".3f")
    chart = inline(rows).mark_line(strokeWidth=2, point=True)
    tooltip = ["name:N", "step:Q", value, *details]
    chart = chart.encode(x, y, color, dash, detail=list(details), tooltip=tooltip)
    return to_spec(chart, 320, what)


def nearest(name: str, runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the distances of a run; the table has what each run is nearest to."""
    rows = [
        {"step": step["step"], "name": other, "distance": distance}
        for step in runs[name]["steps"]
        for other, distance in step["distances"].items()
    ]
    others = runs[name]["others"]
    grams = [other for other in others if other.endswith("-gram")]
    # A logarithmic axis has no place for a distance that rounding made negative.
    rows = [row for row in rows if row["distance"] > 0]
    y = alt.Y("distance:Q", title="KL divergence, nats", scale=alt.Scale(type="log"))
    return Figure(
        f"Distance of {name} from n-grams and earlier stages",
        lines(rows, y, others, "Distance from n-grams and earlier stages.", dashed=grams),
        ["run", "updates", "loss", "nearest to", "distance"],
        [
            [
                one,
                f"{step['step']:,}",
                f"{step['loss']:.3f}",
                step["nearest"],
                f"{step['distances'][step['nearest']]:.3f}",
            ]
            for one, run in runs.items()
            for step in run["steps"]
        ],
    )


def kinds(name: str, run: Mapping[str, Any]) -> Figure:
    """Draws the loss of each kind of character."""
    present = [kind for kind, count in zip(run["kinds"], run["counts"], strict=True) if count]
    means = []
    for step in run["steps"]:
        of_kinds = zip(run["kinds"], step["nats"], run["counts"], strict=True)
        means.append({kind: nats / count for kind, nats, count in of_kinds if count})
    rows = [
        {"step": step["step"], "name": kind, "loss": loss}
        for step, losses in zip(run["steps"], means, strict=True)
        for kind, loss in losses.items()
    ]
    y = alt.Y("loss:Q", title="Nats per character of the kind")
    return Figure(
        f"Loss of {name} by kind of character",
        lines(rows, y, present, "Loss by kind of character."),
        ["updates", *present],
        [
            [f"{step['step']:,}", *(f"{losses[kind]:.2f}" for kind in present)]
            for step, losses in zip(run["steps"], means, strict=True)
        ],
    )


def heads(name: str, run: Mapping[str, Any]) -> Figure:
    """Draws the scores of each head."""
    table, rows = [], []
    for step in run["steps"]:
        for head in step["heads"]:
            label = f"{head['layer']}.{head['head']}"
            row = {"step": step["step"], "head": label}
            rows += [{**row, "name": title, "mass": head[score]} for score, title in SCORES.items()]
            scores = (f"{head[score]:.2f}" for score in SCORES)
            table.append([f"{step['step']:,}", label, *scores])
    y = alt.Y("mass:Q", title="Mean attention weight")
    return Figure(
        f"Heads of {name}: weight on the token before, on the same token, and induction",
        lines(rows, y, [*SCORES.values()], "Scores of each head.", ["head:N"]),
        ["updates", "head", *SCORES.values()],
        table,
    )


def magnitudes(name: str, run: Mapping[str, Any], what: str, title: str) -> Figure:
    """Draws the gradients or activations of each sub-module, on one batch."""
    parts = list(run["steps"][0][what])
    rows = [
        {"step": step["step"], "name": part, "size": step[what][part]}
        for step in run["steps"]
        for part in parts
        if step[what][part] > 0  # A logarithmic axis has no zero.
    ]
    y = alt.Y("size:Q", title=title, scale=alt.Scale(type="log"))
    return Figure(
        f"{title} of each part of {name}, on one batch",
        lines(rows, y, parts, f"{title} of each part."),
        ["updates", *parts],
        [
            [f"{step['step']:,}", *(f"{step[what][part]:.3g}" for part in parts)]
            for step in run["steps"]
        ],
    )
