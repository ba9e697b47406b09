"""Section "A yardstick": the models beside n-grams."""

from collections.abc import Sequence

import altair as alt

from reporting.charts import LEGEND_COLUMNS, inline, to_spec
from reporting.inside_parts import Figure, Inside, Section, alike, colors


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None without a run that was measured."""
    found, left_out = alike(insides, "yardstick", "the yardstick")
    if not found:
        return None
    return Section(
        name="yardstick",
        title="A yardstick",
        question="Which n-gram is as good as the model, and which one does it resemble?",
        reading="An n-gram predicts a character from the n - 1 before it by counting, without any "
        "training. A model whose dot is on the line at 3.4 predicts as well as something between a "
        "3-gram and a 4-gram; beyond the line's lowest point none is as good.",
        figures=[losses(found), distances(found)],
        left_out=left_out,
    )


def losses(found: Sequence[Inside]) -> Figure:
    """Draws the loss of n-grams over their order, and each model where it meets that line."""
    # With the most context, n-grams lose least at the beginnings of windows.
    of_longest = min((one.views["yardstick"] for one in found), key=lambda view: view["losses"][-1])
    line = [
        {"order": order, "loss": loss}
        for order, loss in zip(of_longest["orders"], of_longest["losses"], strict=True)
    ]
    dots = [
        {"name": one.name, "loss": one.loss, "order": one.views["yardstick"]["as_good_as"]}
        for one in found
    ]
    shades = colors(found)
    color = alt.Color("name:N", title=None, sort=[*shades]).legend(
        orient="bottom", columns=LEGEND_COLUMNS, labelLimit=200
    )
    color = color.scale(domain=[*shades], range=[*shades.values()])
    y = alt.Y("loss:Q", title="Nats per token").scale(zero=False)
    x = alt.X("order:Q", title="n", axis=alt.Axis(values=of_longest["orders"], format="d"))
    tooltip = ["name:N", alt.Tooltip("loss:Q", format=".3f")]
    met = [dot for dot in dots if dot["order"] is not None]
    apart = [dot for dot in dots if dot["order"] is None]
    layers = [inline(line).mark_line(color="currentColor", opacity=0.6, point=True).encode(x, y)]
    # A layer without rows would have no extent, and an image without a name.
    if apart:
        rule = inline(apart).mark_rule(strokeWidth=2, strokeDash=[6, 4])
        layers.append(rule.encode(y, color, tooltip=tooltip))
    if met:
        point = inline(met).mark_point(filled=True, size=110, opacity=1)
        layers.append(point.encode(x, y, color, tooltip=tooltip))
    chart = alt.layer(*layers)
    return Figure(
        "Loss of n-grams, and where the models meet it",
        to_spec(chart, 320, "Loss of n-grams over n, with the models on it."),
        ["model", "loss", "as good as", "closest to", "its distance"],
        [
            [
                one.name,
                f"{one.loss:.3f}",
                as_good_as(one),
                f"{one.views['yardstick']['nearest']}-gram",
                f"{min(one.views['yardstick']['distances']):.3f}",
            ]
            for one in found
        ]
        + [[f"{row['order']}-gram", f"{row['loss']:.3f}", "", "", ""] for row in line],
    )


def as_good_as(one: Inside) -> str:
    """Returns which n-gram is as good as a model, in words."""
    order = one.views["yardstick"]["as_good_as"]
    if order is not None:
        return f"a {order:.1f}-gram"
    is_below = one.loss < min(one.views["yardstick"]["losses"])
    return "better than all" if is_below else "worse than all"


def distances(found: Sequence[Inside]) -> Figure:
    """Draws how far each model's predictions are from those of each n-gram."""
    views = [one.views["yardstick"] for one in found]
    rows = [
        {"name": one.name, "order": order, "distance": distance}
        for one, view in zip(found, views, strict=True)
        for order, distance in zip(view["orders"], view["distances"], strict=True)
    ]
    shades = colors(found)
    chart = inline(rows).mark_line(point=True, strokeWidth=2)
    chart = chart.encode(
        alt.X("order:Q", title="n", axis=alt.Axis(values=views[0]["orders"], format="d")),
        alt.Y("distance:Q", title="KL divergence, nats"),
        alt.Color("name:N", title=None)
        .legend(orient="bottom", columns=LEGEND_COLUMNS, labelLimit=200)
        .scale(domain=[*shades], range=[*shades.values()]),
        tooltip=["name:N", "order:Q", alt.Tooltip("distance:Q", format=".3f")],
    )
    return Figure(
        "Distance of the models' predictions from those of n-grams",
        to_spec(chart, 280, "KL divergence of each n-gram from each model."),
        ["model", *(f"{order}-gram" for order in views[0]["orders"])],
        [
            [one.name, *(f"{distance:.3f}" for distance in view["distances"])]
            for one, view in zip(found, views, strict=True)
        ],
    )
