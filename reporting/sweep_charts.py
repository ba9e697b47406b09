"""Vega-Lite specs of a sweep: parallel coordinates, importance, the metric against a parameter."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import altair as alt

from reporting import scaling_charts, statistics, vocabulary_charts
from reporting.charts import COLORS
from reporting.sweeps import SEED, Sweep, label, shown, text

# From good to bad, on a light and on a dark page.
SCALE = (COLORS[1], "#a08fb0", COLORS[0])
# Values of a parameter that an axis names one by one.
MOST_TICKS = 10
TICKS = alt.ExprRef("ceil(width / 90)")
IMPORTANCE = "Share of each parameter in the spread (fANOVA; the seed counts as noise)"


def charts(sweep: Sweep) -> dict[str, dict]:
    """All that can be drawn, under the heading that it stands below."""
    if not sweep.finished or not sweep.varying:
        return {}
    made: dict[str, alt.Chart | alt.LayerChart] = {}
    if sweep.scaling:
        made |= scaling_charts.charts(*sweep.scaling)
    if len({run.vocab_size for run in sweep.finished} - {None}) > 2:
        made |= vocabulary_charts.charts(sweep.finished)
    groups, _ = sweep.stages()
    if len(groups) > 1 and not sweep.scaling:
        what = "Experiments" if sweep.compares_experiments else "Models"
        made[f"{what} compared: mean over seeds, 95 % confidence interval"] = stages(sweep, groups)
    if shares := sweep.importance():
        made[IMPORTANCE] = bars(shares)
    if len(sweep.finished) > 1:
        made[f"Every finished run, a line each; colour: {sweep.metric}"] = parallel(sweep)
    names = [name for name in sweep.varying if name != SEED]
    for name in names:
        others = [other for other in names if other != name]
        if len(others) in (1, 2) and is_grid(sweep, name, others):
            heading = f"{sweep.metric} against {label(name)}, a line for each {label(others[0])}"
            made[heading] = lines(sweep, name, *others)
        else:
            made[f"{sweep.metric} against {label(name)}: runs, and mean with range over seeds"] = (
                against(sweep, name)
            )
    return {heading: chart.to_dict() for heading, chart in made.items()}


def is_grid(sweep: Sweep, name: str, others: Sequence[str]) -> bool:
    """Whether a parameter is a number, of three values or more at every setting of `others`."""
    values = [run.swept.get(name) for run in sweep.finished]
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    counts = [len({text(run, one) for run in sweep.finished}) for one in others]
    at = {}
    for run in sweep.finished:
        setting = tuple(text(run, one) for one in others)
        at.setdefault(setting, set()).add(text(run, name))
    # A run that diverged leaves a gap in a line, and no more.
    is_full = len(at) == math.prod(counts) and min(map(len, at.values())) > 2
    return numbers and is_full and max(counts) <= len(COLORS)


def lines(sweep: Sweep, name: str, other: str, third: str = "") -> alt.Chart | alt.FacetChart:
    """The mean over seeds against a number, a line for each value of another parameter, and a
    picture for each of a third."""
    rows = []
    for group in sweep.settings().values():
        values = [sweep.value(run) for run in group]
        rows.append(
            {
                "x": group[0].swept[name],
                "mean": fmean(values),
                "of": text(group[0], other),
                "in": f"{label(third)} {text(group[0], third)}" if third else "",
            }
        )
    rows.sort(key=lambda row: row["x"])
    order = list(dict.fromkeys(text(run, other) for run in sweep.finished))
    values = sorted({row["x"] for row in rows})
    kind = "log" if statistics.spans_decades(values) else "linear"
    axis = alt.Axis(values=values, format="~g") if len(values) <= MOST_TICKS else alt.Axis()
    chart = (
        alt.Chart(alt.InlineData(rows))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            alt.X("x:Q", title=label(name), axis=axis).scale(
                type=kind, zero=False, nice=False, padding=15
            ),
            alt.Y("mean:Q", title=sweep.metric, scale=alt.Scale(zero=False)),
            alt.Color("of:N", title=label(other)).scale(domain=order, range=COLORS),
            tooltip=["of:N", "x:Q", alt.Tooltip("mean:Q", format=".4f")],
        )
    )
    what = f"{sweep.metric} against {label(name)} for each {label(other)}."
    if not third:
        return chart.properties(width="container", height=260, description=what)
    chart = chart.properties(width=300, height=260)
    return chart.facet(alt.Facet("in:N", title=None), columns=2).properties(description=what)


def positions(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where values stand on an axis from 0 to 1, and the ticks (place, text) beside it."""
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    if not numbers or len(set(values)) == 1:
        # The first, of the lowest stage, on top.
        words = list(dict.fromkeys(map(str, values)))
        place = {word: 1 - (i + 0.5) / len(words) for i, word in enumerate(words)}
        return [place[str(value)] for value in values], [(at, word) for word, at in place.items()]
    scale = math.log10 if statistics.spans_decades(values) else float
    low, high = scale(min(values)), scale(max(values))
    different = sorted(set(values))
    if len(different) > 6:
        different = [different[0], different[-1]]
    ticks = [((scale(value) - low) / (high - low), f"{value:.4g}") for value in different]
    return [(scale(value) - low) / (high - low) for value in values], ticks


def parallel(sweep: Sweep) -> alt.LayerChart:
    """A line for each run through its parameters to the metric."""
    names = [*sweep.varying, sweep.metric]
    columns = [label(name) for name in names]
    lines, ticks = [], []
    for name, column in zip(names, columns, strict=True):
        values = [
            sweep.value(run) if name == sweep.metric else shown(run, name) for run in sweep.finished
        ]
        places, marks = positions(values)
        ticks += [{"axis": column, "place": place, "text": word} for place, word in marks]
        lines += [
            {
                "run": run.name,
                "axis": column,
                "place": place,
                "value": sweep.value(run),
                "here": text(run, name) if name != sweep.metric else f"{sweep.value(run):.4f}",
            }
            for run, place in zip(sweep.finished, places, strict=True)
        ]
    x = alt.X("axis:N", sort=columns, title=None, scale=alt.Scale(type="point", padding=0.5))
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    runs = (
        alt.Chart(alt.InlineData(lines))
        .mark_line(strokeWidth=2, opacity=0.75, point=True)
        .encode(
            x.axis(labelAngle=0, domain=False, ticks=False, grid=True, orient="top"),
            y,
            alt.Detail("run:N"),
            alt.Color(
                "value:Q",
                title=sweep.metric,
                scale=alt.Scale(range=SCALE, reverse=sweep.goal == "maximize"),
            ),
            tooltip=["run:N", "axis:N", "here:N", alt.Tooltip("value:Q", format=".4f")],
        )
    )
    marks = (
        alt.Chart(alt.InlineData(ticks))
        .mark_text(align="left", dx=7, color="currentColor", fontWeight=600, limit=170)
        .encode(x, y, alt.Text("text:N"))
    )
    return (runs + marks).properties(
        width="container", height=320, description="Parameters and result of each finished run."
    )


def bars(shares: dict[str, float]) -> alt.LayerChart:
    """The importance of each parameter."""
    rows = [{"name": label(name), "share": share} for name, share in shares.items()]
    base = alt.Chart(alt.InlineData(rows)).encode(
        alt.X("share:Q", title=None, axis=alt.Axis(format="%", grid=False, tickCount=TICKS)),
        alt.Y("name:N", title=None, sort=[row["name"] for row in rows]),
    )
    words = base.mark_text(align="left", dx=5, color="currentColor")
    return (
        base.mark_bar(cornerRadiusEnd=3) + words.encode(alt.Text("share:Q", format=".0%"))
    ).properties(
        width="container", height=30 * len(rows), description="Importance of each parameter."
    )


def stages(sweep: Sweep, groups: dict[str, list[float]]) -> alt.LayerChart:
    """Each model's mean with its interval, and the runs behind it."""
    rows = []
    for model, values in groups.items():
        mean, low, high = fmean(values), None, None
        if len(values) > 1:
            mean, low, high = statistics.mean_interval(values)
        rows.append({"model": f"{model} (n={len(values)})", "mean": mean, "low": low, "high": high})
    runs = [
        {"model": row["model"], "value": value}
        for row, values in zip(rows, groups.values(), strict=True)
        for value in values
    ]
    y = alt.Y("model:N", title=None, sort=[row["model"] for row in rows])
    scale = alt.Scale(zero=False, padding=12)
    axis = alt.Axis(tickCount=TICKS)
    base = alt.Chart(alt.InlineData(rows)).encode(y)
    mean = base.mark_point(filled=True, size=90, opacity=1).encode(
        alt.X("mean:Q", title=sweep.metric, scale=scale, axis=axis),
        tooltip=["model:N", alt.Tooltip("mean:Q", format=".4f")],
    )
    each = (
        alt.Chart(alt.InlineData(runs))
        .mark_tick(color="currentColor", opacity=0.5)
        .encode(y, alt.X("value:Q", scale=scale))
    )
    layers = [each, mean]
    if any(row["low"] is not None for row in rows):
        known = alt.Chart(alt.InlineData([row for row in rows if row["low"] is not None]))
        rule = known.mark_rule(strokeWidth=3, color="currentColor")
        layers.insert(0, rule.encode(y, alt.X("low:Q", scale=scale), alt.X2("high:Q")))
    return alt.layer(*layers).properties(
        width="container", height=44 * len(rows), description="Models with confidence intervals."
    )


def against(sweep: Sweep, name: str) -> alt.LayerChart:
    """The metric of each run over one parameter, and over seeds the mean and the range."""
    rows = by_setting(sweep, name)
    values = [row["x"] for row in rows]
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    models = list(dict.fromkeys(row["model"] for row in rows))
    kind = "log" if numbers and statistics.spans_decades(values) else "linear"
    axis = alt.Axis(labelAngle=0, labelLimit=160)
    x = (
        alt.X(
            "x:Q",
            title=label(name),
            scale=alt.Scale(type="log", padding=20)
            if kind == "log"
            else alt.Scale(zero=False, padding=20),
            axis=alt.Axis(tickCount=TICKS),
        )
        if numbers
        else alt.X(
            "x:N",
            title=label(name),
            axis=axis,
            sort=list(dict.fromkeys(values)),
            scale=alt.Scale(type="point", padding=0.5),
        )
    )
    base = alt.Chart(alt.InlineData(rows)).encode(
        x,
        alt.Color(
            "model:N",
            title=None,
            legend=alt.Legend(orient="top") if len(models) > 1 else None,
            scale=alt.Scale(domain=models, range=COLORS),
        ),
    )
    scale = alt.Scale(zero=False)
    points = base.mark_point(opacity=0.45).encode(
        alt.Y("value:Q", title=sweep.metric, scale=scale),
        tooltip=["run:N", "x:N", alt.Tooltip("value:Q", format=".4f")],
    )
    settings = base.transform_filter("isValid(datum.mean)")
    ranges = settings.mark_rule(strokeWidth=2).encode(
        alt.Y("least:Q", scale=scale), alt.Y2("most:Q")
    )
    means = settings.mark_point(filled=True, size=60, opacity=1).encode(
        alt.Y("mean:Q", scale=scale)
    )
    return (ranges + points + means).properties(
        width="container", height=260, description=f"{sweep.metric} against {label(name)}."
    )


def by_setting(sweep: Sweep, name: str) -> list[dict[str, Any]]:
    """A row for each run; the first of each setting has the mean and the range over its seeds."""
    rows = []
    for group in sweep.settings().values():
        values = [sweep.value(run) for run in group]
        mean = {"mean": fmean(values), "least": min(values), "most": max(values)}
        for i, run in enumerate(group):
            rows.append(
                {
                    "run": run.name,
                    "x": shown(run, name),
                    "value": sweep.value(run),
                    "model": str(run.config.get("model.name", "")),
                    # Once a setting, not once a seed.
                    **(mean if i == 0 else {}),
                }
            )
    return rows
