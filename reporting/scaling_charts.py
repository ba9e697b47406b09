"""The law of `scaling.py` as pictures: the loss over parameters, tokens and FLOPs, and its best."""

import altair as alt
import numpy as np

from reporting.charts import COLORS
from reporting.scaling import Law, Points, round_tokens

STEPS = 40
LOSS = "Validation loss, nats per token"
SIZE = "Parameters outside of embeddings"


def charts(seen: Points, law: Law) -> dict[str, alt.LayerChart]:
    """All of them, under the heading that each stands below. Dots are runs, lines the law."""
    tokens = [f"{round_tokens(one) / 1e6:g}M tokens" for one in seen.tokens]
    sizes = [f"{one:,.0f} parameters" for one in seen.parameters]
    steps = np.geomspace(seen.parameters.min(), 2 * seen.parameters.max(), STEPS)
    lines_by_tokens = [
        {"x": size, "loss": loss, "of": label}
        for label, count in dict(zip(tokens, seen.tokens, strict=True)).items()
        for size, loss in zip(steps, law.loss(steps, count), strict=True)
    ]
    steps = np.geomspace(seen.tokens.min(), 2 * seen.tokens.max(), STEPS)
    lines_by_size = [
        {"x": count, "loss": loss, "of": label}
        for label, size in dict(zip(sizes, seen.parameters, strict=True)).items()
        for count, loss in zip(steps, law.loss(size, steps), strict=True)
    ]
    return {
        "Loss against parameters: runs, and the fitted law": _chart(
            seen, seen.parameters, tokens, lines_by_tokens, SIZE
        ),
        "Loss against tokens: runs, and the fitted law": _chart(
            seen, seen.tokens, sizes, lines_by_size, "Tokens seen"
        ),
        "Loss against compute: runs, and the best size by the law": _chart(
            seen, seen.flops, sizes, _frontier(seen, law), "Floating-point operations of training"
        ),
        "Equal FLOPs: the law over the size, and the size that is best": _equal_flops(seen, law),
    }


def _frontier(seen: Points, law: Law) -> list[dict]:
    """The loss of the best size over the compute."""
    rows = []
    for flops in np.geomspace(seen.flops.min(), 4 * seen.flops.max(), STEPS):
        size = law.best_size(flops)
        loss = float(law.loss(size, flops / law.flops_per_token(size)))
        rows.append({"x": flops, "loss": loss, "of": "the best size"})
    return rows


def _chart(
    seen: Points, x: np.ndarray, groups: list[str], lines: list[dict], title: str
) -> alt.LayerChart:
    dots = [
        {"x": at, "loss": loss, "of": group, "run": run.name}
        for at, loss, group, run in zip(x, seen.loss, groups, seen.runs, strict=True)
    ]
    order = list(dict.fromkeys([*(row["of"] for row in lines), *groups]))
    layers = [
        alt.Chart(alt.InlineData(lines)).mark_line(strokeWidth=1.5, opacity=0.8),
        alt.Chart(alt.InlineData(dots)).mark_point(filled=True, size=60, opacity=1),
    ]
    encoded = [
        layer.encode(*_axes(title), alt.Color("of:N", title=None).scale(domain=order, range=COLORS))
        for layer in layers
    ]
    encoded[1] = encoded[1].encode(
        tooltip=["run:N", "of:N", alt.Tooltip("loss:Q", format=".4f"), alt.Tooltip("x:Q")]
    )
    return alt.layer(*encoded).properties(
        width="container", height=300, description=f"Validation loss against {title.lower()}."
    )


def _equal_flops(seen: Points, law: Law) -> alt.LayerChart:
    """For a few budgets the loss over the size that spends them, and where it is lowest."""
    lines, best = [], []
    sizes = np.geomspace(seen.parameters.min() / 2, 4 * seen.parameters.max(), 2 * STEPS)
    for flops in np.geomspace(np.median(seen.flops) / 2, 2 * seen.flops.max(), 4):
        label = f"{flops:.1e} FLOPs".replace("e+", "e")
        losses = law.loss(sizes, flops / law.flops_per_token(sizes))
        lines += [
            {"x": size, "loss": loss, "of": label}
            for size, loss in zip(sizes, losses, strict=True)
            if loss < 2 * seen.loss.min()
        ]
        size = law.best_size(flops)
        loss = float(law.loss(size, flops / law.flops_per_token(size)))
        best.append({"x": size, "loss": loss, "of": label})
    order = [row["of"] for row in best]
    color = alt.Color("of:N", title=None).scale(domain=order, range=COLORS)
    curves = alt.Chart(alt.InlineData(lines)).mark_line(strokeWidth=1.5)
    marks = alt.Chart(alt.InlineData(best)).mark_point(filled=True, size=90, opacity=1)
    marks = marks.encode(
        tooltip=["of:N", alt.Tooltip("x:Q", format=",.0f"), alt.Tooltip("loss:Q", format=".3f")]
    )
    return alt.layer(*(one.encode(*_axes(SIZE), color) for one in (curves, marks))).properties(
        width="container", height=300, description="Loss over model size at equal FLOPs."
    )


def _axes(title: str) -> tuple[alt.X, alt.Y]:
    ticks = alt.Axis(tickCount=6, format="~s")
    x = alt.X("x:Q", title=title, scale=alt.Scale(type="log"), axis=ticks)
    y = alt.Y("loss:Q", title=LOSS, scale=alt.Scale(type="log", nice=False, zero=False))
    return x, y.axis(format=".3~f", tickCount=7)
