"""Vega-Lite specs of the comparison, without their data: `points` is embedded in the page once."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import product

import altair as alt

from reporting.rows import group_seeds
from reporting.runs import Run, number

# The version that Altair writes for.
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
# How every chart looks. currentColor is the ink of the page, light or dark.
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
# What curves are drawn against: the field of a point, its metric, the axis title.
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
# What is said about a point besides its run: title, field, d3 format.
TOOLTIP = (
    ("updates", "step", ","),
    ("tokens seen", "tokens", ".3~s"),
    ("seconds", "seconds", ",.1f"),
    ("FLOPs", "flops", ".2e"),
    ("val loss", "val", ".3f"),
    ("train loss", "train", ".3f"),
    ("bits per byte", "bits", ".3f"),
)
# More than these at the ends of curves can't be read.
MOST_LABELS = 8
NARROW = 560


def points(runs: Sequence[Run]) -> list[dict]:
    """One measurement of one run each, under short names, six digits."""
    labels = {run.name: label for label, group in group_seeds(runs).items() for run in group}
    columns = {**POSITIONS, **LOSSES, "bits": ("val/bits_per_byte", "")}
    rows = []
    for run in runs:
        for line in run.metrics:
            values = {name: number(line.get(metric)) for name, (metric, _) in columns.items()}
            finite = {name: float(f"{x:.6g}") for name, x in values.items() if x is not None}
            rows.append({"name": run.name, "series": labels[run.name], **finite})
    return rows


def palette(runs: Sequence[Run]) -> dict[str, str]:
    """The colour of each group of seeds."""
    return {label: COLORS[i % len(COLORS)] for i, label in enumerate(group_seeds(runs))}


def uniform_loss(runs: Sequence[Run]) -> float | None:
    """The loss of guessing every token alike, if it is the same for all runs."""
    sizes = {run.vocab_size for run in runs}
    return math.log(size) if len(sizes) == 1 and (size := sizes.pop()) else None


def log_by_default(runs: Sequence[Run]) -> dict[str, bool]:
    """Whether the runs' ends lie so far apart that a linear axis would hide the shorter ones."""
    ends = {
        name: [end for run in runs if (end := run.last(metric))]
        for name, (metric, _) in POSITIONS.items()
    }
    return {name: bool(values) and max(values) > 10 * min(values) for name, values in ends.items()}


def curves(runs: Sequence[Run], rows: list[dict]) -> dict[str, dict]:
    """The specs of all switch positions, as "<loss> <position> <log or linear>"."""
    return {
        f"{loss} {position} {scale}": curve_chart(runs, rows, loss, position, scale).to_dict()
        for loss, position, scale in product(LOSSES, POSITIONS, ("log", "linear"))
    }


def curve_chart(
    runs: Sequence[Run], rows: list[dict], loss: str, position: str, scale: str
) -> alt.LayerChart:
    """Loss curves over one position, with a point to hover at each measurement."""
    colors = palette(runs)
    uniform = uniform_loss(runs)
    y = partial(loss_axis, domain=loss_range(rows, loss, uniform), title=LOSSES[loss][1])
    is_shown = f"isValid(datum.{loss})" + (f" && datum.{position} > 0" if scale == "log" else "")
    base = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter(is_shown)
        .transform_window(
            smooth=f"mean({loss})", frame=[-2, 2], groupby=["name"], sort=[alt.SortField("step")]
        )
        .encode(
            alt.X(f"{position}:Q", title=POSITIONS[position][1])
            .scale(type=scale, nice=False)
            .axis(
                labelExpr=AXIS_LABEL[position],
                tickCount=alt.ExprRef("ceil(width / 90)"),
                values=powers(rows, position) if scale == "log" else alt.Undefined,
            ),
            y(loss),
            alt.Color("series:N", legend=None).scale(domain=[*colors], range=[*colors.values()]),
            alt.Detail("name:N"),
        )
    )
    if loss == "val":
        lines = [base.mark_line(clip=True, strokeWidth=2, point=alt.OverlayMarkDef(size=14))]
    else:
        lines = [
            base.mark_line(clip=True, strokeWidth=1, opacity=0.3),
            base.mark_line(clip=True, strokeWidth=2).encode(y("smooth")),
        ]
    layers = [*lines, hover(base)]
    if len(colors) <= MOST_LABELS:
        layers.append(end_labels(base).encode(y("smooth" if loss == "train" else loss)))
    if uniform and loss == "val":
        layers.insert(0, uniform_rule(uniform, runs[0].vocab_size, y("loss")))
    return alt.layer(*layers).properties(
        width="container",
        height=400,
        title=alt.Title(
            "" if loss == "val" else "thin: one batch, thick: mean of five that were logged",
            fontWeight="normal",
            fontSize=12,
            color="currentColor",
        ),
        description=f"{LOSSES[loss][1]}, against {POSITIONS[position][1].lower()}, of each run.",
    )


def loss_axis(field: str, domain: list[float], title: str) -> alt.Y:
    """The vertical axis of a loss, in nats."""
    # The same in every layer: Vega-Lite would join what they leave open, zero among it.
    scale = alt.Scale(domain=domain, zero=False, nice=False)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=7))


def loss_range(rows: list[dict], loss: str, uniform: float | None) -> list[float]:
    """From the lowest loss to the highest that a run begins at: one that diverges is cut off."""
    first = {row["name"]: row[loss] for row in reversed(rows) if loss in row}
    if not first:
        return [0, 1]
    top = max([*first.values(), *([uniform] if uniform and loss == "val" else [])])
    bottom = min(row[loss] for row in rows if loss in row)
    margin = 0.04 * (top - bottom) or 0.1
    return [bottom - margin, top + margin]


def powers(rows: list[dict], position: str) -> list[float]:
    """Ticks for a logarithmic axis: powers of ten, and what lies between if those are few."""
    values = [row[position] for row in rows if row.get(position, 0) > 0]
    if not values:
        return []
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    between = (1, 2, 5) if last - first < 5 else (1,)
    return [digit * 10.0**power for power in range(first, last + 1) for digit in between]


def hover(base: alt.Chart) -> alt.Chart:
    """The measurement next to the pointer, ringed, with all that is known about it."""
    near = alt.selection_point(
        name="near", on="pointerover", nearest=True, fields=["name", "step"], empty=False
    )
    # Vega-Lite 6.4 can't write a name into the tooltip of the nearest point, so this does it all:
    # `datum` is then the mark of that point, and the point is its datum.
    point = "(datum.datum || datum)"
    known = [
        f"isValid({point}.{field}) ? {{'{title}': format({point}.{field}, '{form}')}} : {{}}"
        for title, field, form in TOOLTIP
    ]
    tooltip = f"merge({{'run': {point}.name}}, {', '.join(known)})"
    return (
        base.mark_point(clip=True, filled=True, size=70)
        .encode(
            opacity=alt.condition(near, alt.value(1), alt.value(0)),
            tooltip=alt.value(alt.expr(tooltip)),
        )
        .add_params(near)
    )


def end_labels(base: alt.Chart) -> alt.Chart:
    """The label of a group of seeds, at the end of its first run's curve."""
    return (
        base.transform_joinaggregate(end="max(step)", groupby=["name"])
        .transform_filter("datum.step == datum.end && indexof(datum.series, datum.name) == 0")
        .mark_text(align="right", dx=-2, dy=-11, fontWeight=600, clip=True, limit=220)
        .encode(
            text="series:N",
            opacity=alt.value(alt.expr(f"width < {NARROW} ? 0 : 1")),
        )
    )


def uniform_rule(loss: float, vocab_size: int, y: alt.Y) -> alt.LayerChart:
    """Where a model starts that has learned nothing."""
    text = f"guessing uniformly: ln {vocab_size:,} = {loss:.2f}"
    base = alt.Chart(alt.InlineData([{"loss": loss}])).encode(y)
    rule = base.mark_rule(strokeDash=[4, 4], color="currentColor", opacity=0.6)
    return rule + base.mark_text(
        text=text, align="right", dy=10, dx=-2, x="width", color="currentColor", opacity=0.8
    )


def bits_chart(runs: Sequence[Run]) -> dict:
    """Bits per byte after the last update, a bar each."""
    colors = palette(runs)
    labels = {run.name: label for label, group in group_seeds(runs).items() for run in group}
    bars = [
        {"name": run.name, "series": labels[run.name], "bits": bits}
        for run in runs
        if (bits := run.last("val/bits_per_byte")) is not None
    ]
    axis = alt.Axis(grid=False, tickCount=alt.ExprRef("ceil(width / 90)"))
    base = alt.Chart(alt.InlineData(bars)).encode(
        alt.X("bits:Q", title="Bits per byte of validation text", axis=axis),
        alt.Y("name:N", title=None, sort=[run.name for run in runs]),
    )
    color = alt.Color("series:N", legend=None).scale(domain=[*colors], range=[*colors.values()])
    layers = base.mark_bar(cornerRadiusEnd=3).encode(color) + base.mark_text(
        align="left", dx=5, color="currentColor"
    ).encode(alt.Text("bits:Q", format=".3f"))
    return layers.properties(
        width="container",
        height=30 * len(bars),
        description="Bits per byte of validation text after the last update, of each run.",
    ).to_dict()
