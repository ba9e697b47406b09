"""Vega-Lite specs of a sweep: parallel coordinates, importance, the metric against a parameter."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import altair as alt

from reporting import frontier_charts, made_texts, scaling_charts, statistics, vocabulary_charts
from reporting.charts import COLORS, TICKS, Rows, Spec, bar_chart, inline, to_spec
from reporting.effects import is_grid
from reporting.groups import SEED, label, text, value
from reporting.runs import are_numbers, sanitize
from reporting.sweeps import Sweep

# From good to bad, on a light and on a dark page.
SCALE = (COLORS[1], "#a08fb0", COLORS[0])
# An axis has a tick at each value of a parameter up to these many.
MAX_TICKS = 10
# Least pixels between two parallel axes: the chart scrolls on a narrow screen.
AXIS_WIDTH = 150
IMPORTANCE = "Share of each parameter in the variance (fANOVA; the seed counts as noise)"


def charts(sweep: Sweep) -> dict[str, Spec]:
    """Returns the specs of all charts that the sweep allows, by heading."""
    if not sweep.finished or not sweep.varying:
        return {}
    if sweep.frontiers:
        sizes = {run.vocab_size for run in sweep.finished}
        return frontier_charts.charts(sweep.frontiers, sizes.pop() if len(sizes) == 1 else None)
    if sweep.gaps:
        return {made_texts.HEADING: made_texts.chart(sweep.gaps)}
    specs: dict[str, Spec] = {}
    if sweep.scaling_law:
        specs |= scaling_charts.charts(*sweep.scaling_law)
    if len({run.vocab_size for run in sweep.finished} - {None}) > 2:
        specs |= vocabulary_charts.charts(sweep.finished)
    groups = sweep.best_settings()
    if len(groups) > 1 and not sweep.scaling_law and not sweep.effects:
        what = "Experiments" if sweep.compares_experiments else "Models"
        heading = f"{what} compared: mean over seeds, 95 % confidence interval"
        specs[heading] = comparison(sweep, groups)
    if len(set(sweep.baselines.values())) > 1 and sweep.differences:
        heading = "Experiments against their baseline: difference, with its 95 % interval"
        specs[heading] = changes(sweep)
    if shares := sweep.importance():
        specs[IMPORTANCE] = importance_bars(shares)
    if len(sweep.finished) > 1:
        heading = f"Every finished run, a line each; color: {sweep.metric}"
        specs[heading] = parallel_coordinates(sweep)
    names = [name for name in sweep.varying if name != SEED]
    for name in names:
        heading = f"{sweep.metric} against {label(name)}"
        others = [other for other in names if other != name]
        if others and is_grid(sweep.finished, name, others) and fit_colors(sweep, others):
            specs[f"{heading}, a line for each {label(others[0])}"] = lines(sweep, name, *others)
        else:
            specs[f"{heading}: runs, and mean with range over seeds"] = scatter(sweep, name)
    return specs


def fit_colors(sweep: Sweep, names: Sequence[str]) -> bool:
    """Returns True if there is a color for each value of each of the parameters."""
    return all(len({text(run, name) for run in sweep.finished}) <= len(COLORS) for name in names)


def lines(sweep: Sweep, name: str, other: str, third: str = "") -> Spec:
    """Draws the mean over seeds: a line for each value of `other`, a facet of `third`."""
    rows = [
        {
            "x": group[0].swept[name],
            "mean": fmean(sweep.value(run) for run in group),
            "of": text(group[0], other),
            "in": f"{label(third)} {text(group[0], third)}" if third else "",
        }
        for group in sweep.settings()
    ]
    rows.sort(key=lambda row: row["x"])
    order = list(dict.fromkeys(text(run, other) for run in sweep.finished))
    values = sorted({row["x"] for row in rows})
    scale = number_scale(values, padding=15)
    chart = inline(rows).mark_line(point=True, strokeWidth=2)
    chart = chart.encode(
        alt.X("x:Q", title=label(name), axis=number_axis(values), scale=scale),
        alt.Y("mean:Q", title=sweep.metric, scale=alt.Scale(zero=False)),
        alt.Color("of:N", title=label(other)).scale(domain=order, range=COLORS),
        tooltip=["of:N", "x:Q", alt.Tooltip("mean:Q", format=".4f")],
    )
    what = f"{sweep.metric} against {label(name)} for each {label(other)}."
    if not third:
        return to_spec(chart, 260, what)
    facets = chart.properties(width=300, height=260).facet(alt.Facet("in:N", title=None), columns=2)
    return facets.properties(description=what).to_dict(validate=False)


def number_scale(values: Sequence[float], padding: int) -> alt.Scale:
    """Returns a logarithmic scale if the numbers span decades, else one that may omit zero."""
    if statistics.spans_decades(values):
        return alt.Scale(type="log", nice=False, padding=padding)
    return alt.Scale(zero=False, nice=False, padding=padding)


def number_axis(values: Sequence[float]) -> alt.Axis:
    """Returns an axis with a tick at each of the numbers, if they are few."""
    different = sorted(set(values))
    if len(different) <= MAX_TICKS:
        return alt.Axis(values=different, labelExpr="format(datum.value, '~r')")
    return alt.Axis(tickCount=TICKS)


def axis_positions(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Returns each value's position on an axis from 0 to 1, and ticks as (position, text)."""
    if not are_numbers(values) or len(set(values)) == 1:
        # The first one, of the lowest stage, on top.
        words = list(dict.fromkeys(map(str, values)))
        place = {word: 1 - (i + 0.5) / len(words) for i, word in enumerate(words)}
        return [place[str(value)] for value in values], [(at, word) for word, at in place.items()]
    scale = math.log10 if statistics.spans_decades(values) else float
    low, high = scale(min(values)), scale(max(values))
    different = sorted(set(values))
    if len(different) > 6:
        different = [different[0], different[-1]]
    place = {value: (scale(value) - low) / (high - low) for value in values}
    return [place[value] for value in values], [(place[x], f"{x:.4g}") for x in different]


def parallel_coordinates(sweep: Sweep) -> Spec:
    """Draws a line for each run through its parameters to the metric."""
    results = [sweep.value(run) for run in sweep.finished]
    axes = {label(name): [value(run, name) for run in sweep.finished] for name in sweep.varying}
    axes[label(sweep.metric)] = results
    lines: Rows = []
    ticks: Rows = []
    for axis, values in axes.items():
        places, marks = axis_positions(values)
        ticks += [{"axis": axis, "place": place, "text": word} for place, word in marks]
        texts = [f"{x:.4f}" if values is results else sanitize(x) for x in values]
        lines += [
            {"run": run.name, "axis": axis, "place": place, "value": result, "here": here}
            for run, place, result, here in zip(sweep.finished, places, results, texts, strict=True)
        ]
    x = alt.X("axis:N", sort=[*axes], title=None, scale=alt.Scale(type="point", padding=0.5))
    # Room for the texts of both ends.
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[-0.04, 1.04], nice=False))
    # A line for each part of a name, for optimizer.learning_rate is wider than its axis.
    names = alt.Axis(
        labelExpr="split(datum.label, '.')",
        labelAngle=0,
        labelPadding=20,
        domain=False,
        ticks=False,
        grid=True,
        orient="top",
    )
    color = alt.Scale(range=SCALE, reverse=sweep.goal == "maximize")
    tooltip = ["run:N", "axis:N", "here:N", alt.Tooltip("value:Q", format=".4f")]
    runs = inline(lines).mark_line(strokeWidth=2, opacity=0.75, point=True)
    runs = runs.encode(
        x.axis(names),
        y,
        alt.Detail("run:N"),
        alt.Color("value:Q", title=sweep.metric, scale=color),
        tooltip=tooltip,
    )
    marks = inline(ticks).mark_text(
        align="left", dx=7, color="currentColor", fontWeight=600, limit=AXIS_WIDTH - 15
    )
    marks = marks.encode(x, y, alt.Text("text:N"))
    chart = (runs + marks).properties(usermeta={"min_width": AXIS_WIDTH * (len(axes) + 1)})
    return to_spec(chart, 320, "Parameters and result of each finished run.")


def importance_bars(shares: dict[str, float]) -> Spec:
    """Draws the importance of each parameter."""
    return bar_chart(
        [{"name": label(name), "share": share} for name, share in shares.items()],
        "Importance of each parameter.",
        alt.X("share:Q", title=None, axis=alt.Axis(format="%", grid=False, tickCount=TICKS)),
        alt.Text("share:Q", format=".0%"),
    )


def comparison(sweep: Sweep, groups: dict[str, list[float]]) -> Spec:
    """Draws each model's mean with its confidence interval, and its runs."""
    groups = {f"{name} (n={len(values)})": values for name, values in groups.items()}
    means = [{"model": model, "mean": fmean(values)} for model, values in groups.items()]
    runs = [{"model": model, "value": value} for model in groups for value in groups[model]]
    intervals: Rows = []
    for model, values in groups.items():
        if len(values) > 1:
            _, low, high = statistics.mean_interval(values)
            intervals.append({"model": model, "low": low, "high": high})
    y = alt.Y("model:N", title=None, sort=[*groups])
    scale = alt.Scale(zero=False, padding=12)
    x = alt.X("mean:Q", title=sweep.metric, scale=scale, axis=alt.Axis(tickCount=TICKS))
    ticks = inline(runs).mark_tick(color="currentColor", opacity=0.5)
    dots = inline(means).mark_point(filled=True, size=90, opacity=1)
    tooltip = ["model:N", alt.Tooltip("mean:Q", format=".4f")]
    layers = [ticks.encode(y, alt.X("value:Q", scale=scale)), dots.encode(y, x, tooltip=tooltip)]
    if intervals:
        rule = inline(intervals).mark_rule(strokeWidth=3, color="currentColor")
        layers.insert(0, rule.encode(y, alt.X("low:Q", scale=scale), alt.X2("high:Q")))
    return to_spec(alt.layer(*layers), 44 * len(means), "Models with confidence intervals.")


def scatter(sweep: Sweep, name: str) -> Spec:
    """Draws the metric of each run over one parameter, with mean and range over seeds."""
    runs: Rows = []
    means: Rows = []
    for group in sweep.settings():
        at = {"x": value(group[0], name), "model": str(group[0].config.get("model.name", ""))}
        values = [sweep.value(run) for run in group]
        runs += [{**at, "run": run.name, "value": sweep.value(run)} for run in group]
        means.append({**at, "mean": fmean(values), "least": min(values), "most": max(values)})
    positions = [row["x"] for row in means]
    if are_numbers(positions):
        scale = number_scale(positions, padding=20)
        x = alt.X("x:Q", title=label(name), scale=scale, axis=number_axis(positions))
    else:
        scale = alt.Scale(type="point", padding=0.5)
        axis = alt.Axis(labelAngle=0, labelLimit=160)
        for row in (*runs, *means):  # Vega-Lite orders texts, or numbers, not both.
            row["x"] = str(row["x"])
        order = list(dict.fromkeys(map(str, positions)))
        x = alt.X("x:N", title=label(name), scale=scale, axis=axis, sort=order)
    models = list(dict.fromkeys(row["model"] for row in means))
    # The names beside the axis may be those of the models.
    is_known = len({(row["x"], row["model"]) for row in means}) == len(models)
    legend = alt.Legend(orient="top", columns=2) if models[1:] and not is_known else None
    color = alt.Color("model:N", title=None, legend=legend).scale(domain=models, range=COLORS)
    y = alt.Scale(zero=False)
    base = inline(means).encode(x, color)
    ranges = base.mark_rule(strokeWidth=2).encode(alt.Y("least:Q", scale=y), alt.Y2("most:Q"))
    dots = inline(runs).mark_point(opacity=0.45)
    tooltip = ["run:N", "x:N", alt.Tooltip("value:Q", format=".4f")]
    dots = dots.encode(x, color, alt.Y("value:Q", title=sweep.metric, scale=y), tooltip=tooltip)
    mean = base.mark_point(filled=True, size=60, opacity=1).encode(alt.Y("mean:Q", scale=y))
    return to_spec(ranges + dots + mean, 260, f"{sweep.metric} against {label(name)}.")


def changes(sweep: Sweep) -> Spec:
    """Draws the difference of each experiment from the one that it changes."""
    rows = [
        {
            "change": f"{found.other.split(':')[0]} {found.one.removeprefix(found.other)[1:]}",
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "verdict": "significant" if found.significant else "not significant",
        }
        for found in sweep.differences
    ]
    # A change that spoils a model is a hundred times as large as one that hardly matters.
    scale = alt.Scale(type="symlog", constant=0.05, padding=12)
    ticks = alt.Axis(values=[-2, -0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 2], format="+~r")
    title = f"{sweep.metric} minus that of the baseline"
    y = alt.Y("change:N", title=None, sort=None)
    zero = inline([{"mean": 0}]).mark_rule(color="currentColor", opacity=0.5).encode(x="mean:Q")
    rule = inline(rows).mark_rule(strokeWidth=3, color="currentColor")
    color = alt.Color("verdict:N", title=None, legend=alt.Legend(orient="bottom"))
    dots = inline(rows).mark_point(filled=True, size=90, opacity=1)
    numbers = [alt.Tooltip(f"{name}:Q", format="+.4f") for name in ("mean", "low", "high")]
    layers = alt.layer(
        zero,
        rule.encode(y, alt.X("low:Q", scale=scale), alt.X2("high:Q")),
        dots.encode(
            y,
            alt.X("mean:Q", title=title, scale=scale, axis=ticks),
            color.scale(domain=["significant", "not significant"], range=list(COLORS[:2])),
            tooltip=["change:N", "verdict:N", *numbers],
        ),
    )
    return to_spec(layers, 26 * len(rows), "Difference of each experiment from its baseline.")
