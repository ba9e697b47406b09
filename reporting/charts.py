"""Vega-Lite specs of the comparison, without their data: the page embeds `points` once."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import altair as alt

from reporting.rows import group_seeds, labels
from reporting.runs import Run, number

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
# The Vega-Lite version that Altair writes for.
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
# Vega config of every chart. currentColor is the page's text color, light or dark.
THEME = {
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        **dict.fromkeys(
            ("labelColor", "titleColor", "tickColor", "domainColor", "gridColor"), "currentColor"
        ),
        "gridOpacity": 0.12,
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "labelOverlap": "greedy",
    },
    "text": {"fontSize": 12},
    "legend": {"labelColor": "currentColor", "titleColor": "currentColor"},
}
# Horizontal axes of curves: the field of a point, its metric, the title.
POSITIONS = {
    "step": ("step", "Updates"),
    "tokens": ("tokens_seen", "Tokens seen"),
    "seconds": ("seconds", "Seconds of training"),
    "flops": ("train_flops", "Floating-point operations of training"),
}
LOSSES = {
    "val": ("val/loss", "Validation loss, nats per token"),
    "train": ("train/loss", "Training loss, nats per token"),
}
# Each has a contrast of at least 3.5 with the page, on its light and its dark background.
COLORS = (
    *("#3b82d6", "#d9641e", "#2a9a5b", "#c94a9c", "#8b67e0"),
    *("#1a93a8", "#d64550", "#8f8a1e", "#a86d42", "#7b818c"),
)
# Vega's own axis format has one unit for all labels (0.1k); 1e12 is 1e+12 in d3's only format.
AXIS_LABEL = {
    **dict.fromkeys(POSITIONS, "format(datum.value, '~s')"),
    "seconds": "format(datum.value, ',~f')",
    "flops": "replace(format(datum.value, '~e'), '+', '')",
}
# About one tick every 90 pixels.
TICKS = alt.ExprRef("ceil(width / 90)")
# Lines of a point's tooltip below its run: title, field, d3 format.
TOOLTIP = (
    ("updates", "step", ","),
    ("tokens seen", "tokens", ".3~s"),
    ("seconds", "seconds", ",.1f"),
    ("FLOPs", "flops", ".2e"),
    ("val loss", "val", ".3f"),
    ("train loss", "train", ".3f"),
    ("bits per byte", "bits", ".3f"),
)
# More labels at the ends of curves overlap.
MAX_LABELS = 8


def points(runs: Sequence[Run]) -> Rows:
    """Returns the measurements of all runs under short names, with six digits."""
    label_of = labels(runs)
    columns = {**POSITIONS, **LOSSES, "bits": ("val/bits_per_byte", "")}
    rows = []
    for run in runs:
        for line in run.metrics:
            values = {name: number(line.get(metric)) for name, (metric, _) in columns.items()}
            finite = {name: float(f"{x:.6g}") for name, x in values.items() if x is not None}
            rows.append({"name": run.name, "series": label_of[run.name], **finite})
    return rows


def palette(runs: Sequence[Run]) -> dict[str, str]:
    """Returns the color of each group of seeds, by label."""
    return {label: COLORS[i % len(COLORS)] for i, label in enumerate(group_seeds(runs))}


def log_by_default(runs: Sequence[Run]) -> dict[str, bool]:
    """Returns whether to start with a logarithmic axis, for each of `POSITIONS`.

    A linear axis hides the short runs where the longest is over ten times as long.
    """
    ends = {
        name: [end for run in runs if (end := run.last(metric))]
        for name, (metric, _) in POSITIONS.items()
    }
    return {name: bool(values) and max(values) > 10 * min(values) for name, values in ends.items()}


def inline(rows: Rows) -> alt.Chart:
    """Returns an empty chart that carries its data."""
    return alt.Chart(alt.InlineData(rows))


def to_spec(
    chart: alt.Chart | alt.LayerChart | alt.FacetChart, height: int, description: str
) -> Spec:
    """Returns the spec of a chart that is as wide as its place on the page."""
    return chart.properties(width="container", height=height, description=description).to_dict()


def series_color(runs: Sequence[Run]) -> alt.Color:
    """Returns the encoding of a run's group of seeds by `palette`."""
    colors = palette(runs)
    return alt.Color("series:N", legend=None).scale(domain=[*colors], range=[*colors.values()])


def curves(runs: Sequence[Run], rows: Rows) -> dict[str, Spec]:
    """Returns the specs of all switch settings, by "<loss> <position> <log or linear>"."""
    return {
        f"{loss} {position} {scale}": curve_chart(runs, rows, loss, position, scale == "log")
        for loss, position, scale in product(LOSSES, POSITIONS, ("log", "linear"))
    }


def curve_chart(runs: Sequence[Run], rows: Rows, loss: str, position: str, is_log: bool) -> Spec:
    """Draws loss curves over one position, with a tooltip at each measurement."""
    sizes = {run.vocab_size for run in runs}
    vocab_size = sizes.pop() if len(sizes) == 1 else None
    # Every layer sets all of it: Vega-Lite would merge open settings, and include zero.
    y_scale = alt.Scale(domain=loss_range(rows, loss, vocab_size), zero=False, nice=False)
    y = partial(alt.Y, title=LOSSES[loss][1], scale=y_scale, axis=alt.Axis(tickCount=7))
    is_shown = f"isValid(datum.{loss})" + (f" && datum.{position} > 0" if is_log else "")
    base = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(is_shown)
        .transform_window(
            smooth=f"mean({loss})", frame=[-2, 2], groupby=["name"], sort=[alt.SortField("step")]
        )
        .encode(
            alt.X(f"{position}:Q", title=POSITIONS[position][1])
            .scale(type="log" if is_log else "linear", nice=False)
            .axis(
                labelExpr=AXIS_LABEL[position],
                tickCount=TICKS,
                values=log_ticks(rows, position) if is_log else alt.Undefined,
            ),
            y(f"{loss}:Q"),
            series_color(runs),
            alt.Detail("name:N"),
        )
    )
    layers: list[alt.Chart | alt.LayerChart] = []
    if loss == "val":
        title, end = "", y("val:Q")
        if vocab_size:
            layers.append(uniform_rule(vocab_size, y("loss:Q")))
        layers.append(base.mark_line(clip=True, strokeWidth=2, point=alt.OverlayMarkDef(size=14)))
    else:
        title, end = "thin: one batch, thick: mean of five logged batches", y("smooth:Q")
        layers.append(base.mark_line(clip=True, strokeWidth=1, opacity=0.3))
        layers.append(base.mark_line(clip=True, strokeWidth=2).encode(end))
    layers.append(hover(base))
    if len(group_seeds(runs)) <= MAX_LABELS:
        layers.append(end_labels(base).encode(end))
    heading = alt.Title(title, fontWeight="normal", fontSize=12, color="currentColor")
    what = f"{LOSSES[loss][1]}, against {POSITIONS[position][1].lower()}, of each run."
    return to_spec(alt.layer(*layers).properties(title=heading), 400, what)


def loss_range(rows: Rows, loss: str, vocab_size: int | None) -> list[float]:
    """Returns the range from the lowest loss to the highest first loss of a run.

    The curve of a run that diverges is cut off above it.
    """
    first = {row["name"]: row[loss] for row in reversed(rows) if loss in row}
    if not first:
        return [0, 1]
    top = max([*first.values(), *([math.log(vocab_size)] if vocab_size and loss == "val" else [])])
    bottom = min(row[loss] for row in rows if loss in row)
    margin = 0.04 * (top - bottom) or 0.1
    return [bottom - margin, top + margin]


def log_ticks(rows: Rows, position: str) -> list[float]:
    """Returns ticks for a logarithmic axis: powers of ten, and 2 and 5 times those if few."""
    values = [row[position] for row in rows if row.get(position, 0) > 0]
    if not values:
        return []
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    digits = (1, 2, 5) if last - first < 5 else (1,)
    return [digit * 10.0**power for power in range(first, last + 1) for digit in digits]


def hover(base: alt.Chart) -> alt.Chart:
    """Rings the measurement next to the pointer and shows its values in a tooltip."""
    near = alt.selection_point(
        name="near", on="pointerover", nearest=True, fields=["name", "step"], empty=False
    )
    # Vega-Lite 6.4 can't write a name into the tooltip of the nearest point, so this expression
    # does: `datum` is then the mark of that point, and the point is its datum.
    point = "(datum.datum || datum)"
    values = [
        f"isValid({point}.{field}) ? {{'{title}': format({point}.{field}, '{form}')}} : {{}}"
        for title, field, form in TOOLTIP
    ]
    tooltip = f"merge({{'run': {point}.name}}, {', '.join(values)})"
    return (
        base.mark_point(clip=True, filled=True, size=70)
        .encode(
            opacity=alt.condition(near, alt.value(1), alt.value(0)),
            tooltip=alt.value(alt.expr(tooltip)),
        )
        .add_params(near)
    )


def end_labels(base: alt.Chart) -> alt.Chart:
    """Writes the label of a group of seeds at the end of its first run's curve."""
    return (
        base.transform_joinaggregate(end="max(step)", groupby=["name"])
        .transform_filter("datum.step == datum.end && indexof(datum.series, datum.name) == 0")
        .mark_text(align="right", dx=-2, dy=-11, fontWeight=600, clip=True, limit=220)
        # Labels on a narrower chart overlap.
        .encode(text="series:N", opacity=alt.value(alt.expr("width < 560 ? 0 : 1")))
    )


def uniform_rule(vocab_size: int, y: alt.Y) -> alt.LayerChart:
    """Draws the loss of the uniform distribution, where an untrained model starts."""
    loss = math.log(vocab_size)
    base = inline([{"loss": loss}]).encode(y)
    rule = base.mark_rule(strokeDash=[4, 4], color="currentColor", opacity=0.6)
    text = f"uniform distribution: ln {vocab_size:,} = {loss:.2f}"
    return rule + base.mark_text(
        text=text, align="right", dy=10, dx=-2, x="width", color="currentColor", opacity=0.8
    )


def bits_chart(runs: Sequence[Run]) -> Spec:
    """Draws a bar for each run's bits per byte after the last update."""
    label_of = labels(runs)
    rows = [
        {"name": run.name, "series": label_of[run.name], "bits": bits}
        for run in runs
        if (bits := run.last("val/bits_per_byte")) is not None
    ]
    axis = alt.Axis(grid=False, tickCount=TICKS)
    return bar_chart(
        rows,
        "Bits per byte of validation text after the last update, of each run.",
        alt.X("bits:Q", title="Bits per byte of validation text", axis=axis),
        alt.Text("bits:Q", format=".3f"),
        series_color(runs),
    )


def bar_chart(rows: Rows, what: str, length: alt.X, text: alt.Text, *color: alt.Color) -> Spec:
    """Draws a horizontal bar for each row's "name", with a number at its end."""
    names = [row["name"] for row in rows]
    base = inline(rows).encode(length, alt.Y("name:N", title=None, sort=names))
    numbers = base.mark_text(align="left", dx=5, color="currentColor").encode(text)
    bars = base.mark_bar(cornerRadiusEnd=3).encode(*color)
    return to_spec(bars + numbers, 30 * len(rows), what)
