"""Vega-Lite specs of the comparison, without their data: the page embeds `points` once."""

import json
import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from statistics import fmean
from typing import Any

import altair as alt

from reporting.groups import group_seeds
from reporting.runs import Run, group_by, number, thin

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
    "legend": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12},
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
# Fields of a point and their metrics.
METRICS = {
    **{name: metric for name, (metric, _) in (POSITIONS | LOSSES).items()},
    "bits": "val/bits_per_byte",
}
# Each has a contrast of at least 3 with the page, on its light and its dark background. The first
# six come from a search for colors that differ for the color-blind, too: by 25 (CIELAB) at least
# with deuteranopia and protanopia, by 42 without.
COLORS = (
    *("#256bd2", "#e24f82", "#0eaa0a", "#6549fc", "#5b7030"),
    *("#119dd0", "#d64550", "#8f8a1e", "#a86d42", "#7b818c"),
)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
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
# As many as there is room for; names of runs and of kinds of characters need some 170 pixels. By
# the width of the chart's place: that of its axes is known only when the legend has its height.
LEGEND_COLUMNS = alt.ExprRef(
    "max(1, floor((isFinite(containerSize()[0]) ? containerSize()[0] : width) / 200)) + 0 * width"
)
LOSS_NAMES = [metric for metric, _ in LOSSES.values()]
# Measurements in a page, which stays below 10 MB.
MAX_POINTS = 24_000
# Curves with a label beside the chart, at most. In pixels: a chart's height, a label's.
MAX_LABELS = 8
HEIGHT, LABEL_HEIGHT = 400, 17
# Pixels beside the longest bar, for its number.
NUMBER_WIDTH = 45


def points(runs: Sequence[Run]) -> Rows:
    """Returns the measurements of all runs under short names, with six digits; many are thinned."""
    rows = []
    for label, group in group_seeds(runs).items():
        records = thin([run.metrics for run in group], LOSS_NAMES, MAX_POINTS // len(runs))
        for run, lines in zip(group, records, strict=True):
            for line in lines:
                values = {name: number(line.get(metric)) for name, metric in METRICS.items()}
                finite = {name: float(f"{x:.6g}") for name, x in values.items() if x is not None}
                rows.append({"name": run.name, "series": label, **finite})
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
    sized = chart.properties(width="container", height=height, description=description)
    # Validation takes seconds for a page of many runs. The tests check every spec.
    return sized.to_dict(validate=False)


def curves(runs: Sequence[Run], rows: Rows) -> dict[str, Spec]:
    """Returns the specs of all switch settings, by "<loss> <position> <log or linear>"."""
    colors = palette(runs)
    return {
        f"{loss} {position} {scale}": curve_chart(
            runs, colors, rows, loss, position, scale == "log"
        )
        for loss, position, scale in product(LOSSES, POSITIONS, ("log", "linear"))
    }


def curve_chart(
    runs: Sequence[Run],
    colors: dict[str, str],
    rows: Rows,
    loss: str,
    position: str,
    is_log: bool,
) -> Spec:
    """Draws loss curves over one position, with a tooltip at each measurement.

    `colors` are those of `palette`, for each group of seeds.
    """
    sizes = {run.vocab_size for run in runs}
    vocab_size = sizes.pop() if len(sizes) == 1 else None
    # Every layer sets all of it: Vega-Lite would merge open settings, and include zero.
    visible = [row for row in rows if row.get(position, 0) > 0] if is_log else rows
    domain = loss_range(visible, loss, None if is_log else vocab_size)
    y_scale = alt.Scale(domain=domain, zero=False, nice=False)
    y = partial(alt.Y, title=LOSSES[loss][1], scale=y_scale, axis=alt.Axis(tickCount=7))
    base = seed_means(loss, position, is_log).encode(
        alt.X(f"{position}:Q", title=POSITIONS[position][1])
        .scale(type="log" if is_log else "linear", nice=False)
        .axis(
            labelExpr=AXIS_LABEL[position],
            tickCount=TICKS,
            values=log_ticks(rows, position) if is_log else alt.Undefined,
        ),
        y(f"{loss}:Q"),
        alt.Color("series:N", legend=None).scale(domain=[*colors], range=[*colors.values()]),
    )
    layers: list[alt.Chart | alt.LayerChart] = []
    titles = []
    if len(colors) < len(runs):
        titles.append("line: mean over seeds, band: their range")
        bands = base.transform_filter("datum.seeds > 1").mark_area(clip=True, opacity=0.25)
        layers.append(bands.encode(y("low:Q"), alt.Y2("high:Q")))
    if loss == "val":
        end = y("val:Q")
        if vocab_size and not is_log:
            layers.append(uniform_rule(vocab_size, y("loss:Q")))
        lines = base.mark_line(clip=True, strokeWidth=2, point=alt.OverlayMarkDef(size=28))
        shapes = [SHAPES[i % len(SHAPES)] for i in range(len(colors))]
        shape = alt.Shape("series:N", legend=None).scale(domain=[*colors], range=shapes)
        layers.append(lines.encode(shape))
    else:
        end = y("smooth:Q")
        titles.append("thin: one batch, thick: mean of five logged batches")
        layers.append(base.mark_line(clip=True, strokeWidth=1, opacity=0.3))
        layers.append(base.mark_line(clip=True, strokeWidth=2).encode(end))
    layers.append(hover(base))
    if len(colors) <= MAX_LABELS:
        layers.append(end_labels(base, label_places(rows, loss, domain), end, y("place:Q")))
    heading = alt.Title("; ".join(titles), fontWeight="normal", fontSize=12, color="currentColor")
    what = f"{LOSSES[loss][1]}, against {POSITIONS[position][1].lower()}, of each run."
    return to_spec(alt.layer(*layers).properties(title=heading), HEIGHT, what)


def seed_means(loss: str, position: str, is_log: bool) -> alt.Chart:
    """Returns a chart of the points at which a loss is known, the seeds of a group as their mean.

    `low` and `high` are the least and the greatest loss of the seeds, `smooth` a moving average.
    """
    is_shown = f"isValid(datum.{loss})" + (f" && datum.{position} > 0" if is_log else "")
    fields = [field for field in METRICS if field != "step"]
    spread = {"low": f"min({loss})", "high": f"max({loss})", "seeds": "count()"}
    columns = {**{field: f"mean({field})" for field in fields}, **spread}
    return (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(is_shown)
        .transform_aggregate(**columns, groupby=["series", "step"])
        .transform_window(
            smooth=f"mean({loss})", frame=[-2, 2], groupby=["series"], sort=[alt.SortField("step")]
        )
    )


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
        name="near", on="pointerover", nearest=True, fields=["series", "step"], empty=False
    )
    # Vega-Lite 6.4 can't write a name into the tooltip of the nearest point, so this expression
    # does: `datum` is then the mark of that point, and the point is its datum.
    point = "(datum.datum || datum)"
    values = [
        f"isValid({point}.{field}) ? {{'{title}': format({point}.{field}, '{form}')}} : {{}}"
        for title, field, form in TOOLTIP
    ]
    tooltip = f"merge({{'run': {point}.series}}, {', '.join(values)})"
    return (
        base.mark_point(clip=True, filled=True, size=70)
        .encode(
            opacity=alt.condition(near, alt.value(1), alt.value(0)),
            tooltip=alt.value(alt.expr(tooltip)),
        )
        .add_params(near)
    )


def label_places(rows: Rows, loss: str, domain: Sequence[float]) -> dict[str, float]:
    """Returns the loss at which to write each label: that of its curve's end, or enough above."""
    ends = {}
    for label, of_label in group_by(rows, lambda row: row["series"]).items():
        if known := [row for row in of_label if loss in row]:
            last = max(row["step"] for row in known)
            ends[label] = fmean(row[loss] for row in known if row["step"] == last)
    gap = LABEL_HEIGHT / HEIGHT * (domain[1] - domain[0])
    places: dict[str, float] = {}
    lowest = domain[0]
    for label in sorted(ends, key=ends.__getitem__):
        places[label] = max(ends[label], lowest)
        lowest = places[label] + gap
    return places


def end_labels(
    base: alt.Chart, places: dict[str, float], end: alt.Y, place: alt.Y
) -> alt.LayerChart:
    """Writes the label of each group of seeds beside the chart, and leads to it from the curve."""
    ends = (
        base.transform_joinaggregate(end="max(step)", groupby=["series"])
        .transform_filter("datum.step == datum.end")
        .transform_calculate(place=f"{json.dumps(places)}[datum.series]")
    )
    # On a narrower chart the list of runs above it tells the colors.
    is_wide = "width >= 480"
    leader = ends.mark_rule(strokeDash=[2, 3], clip=False).encode(
        end,
        alt.Y2("place:Q"),
        x2=alt.X2Value(alt.expr("width + 4")),
        opacity=alt.value(alt.expr(f"{is_wide} ? 0.8 : 0")),
    )
    text = ends.mark_text(align="left", baseline="middle", dx=7, clip=False, limit=170).encode(
        place,
        x=alt.value(alt.expr("width")),
        color=alt.value("currentColor"),
        text=alt.condition(is_wide, "series:N", alt.value("")),
    )
    return leader + text


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
    """Draws a bar for the bits per byte of each run, or of the mean of each group of seeds."""
    rows = []
    for label, group in group_seeds(runs).items():
        if bits := [x for run in group if (x := run.last("val/bits_per_byte")) is not None]:
            rows.append({"name": label, "bits": fmean(bits), "low": min(bits), "high": max(bits)})
    axis = alt.Axis(grid=False, tickCount=TICKS)
    colors = palette(runs)
    color = alt.Color("name:N", legend=None).scale(domain=[*colors], range=[*colors.values()])
    return bar_chart(
        rows,
        "Bits per byte of validation text after the last update, of each run.",
        alt.X("bits:Q", title="Bits per byte", axis=axis),
        alt.Text("bits:Q", format=".3f"),
        color,
    )


def bar_chart(rows: Rows, what: str, length: alt.X, text: alt.Text, *color: alt.Color) -> Spec:
    """Draws a horizontal bar for each row's "name", with a number at its end."""
    y = alt.Y("name:N", title=None, sort=[row["name"] for row in rows])
    length = length.scale(range=[0, alt.ExprRef(f"width - {NUMBER_WIDTH}")])
    base = inline(rows).encode(length, y)
    numbers = base.mark_text(align="left", dx=5, color="currentColor").encode(text)
    layers = [base.mark_bar(cornerRadiusEnd=3).encode(*color), numbers]
    if ranges := [row for row in rows if row.get("low") != row.get("high")]:
        rule = inline(ranges).mark_rule(strokeWidth=3, color="currentColor")
        layers.append(rule.encode(y, alt.X("low:Q"), alt.X2("high:Q")))
    return to_spec(alt.layer(*layers), 30 * len(rows), what)
