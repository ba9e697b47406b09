"""Charts of the scaling law: loss over parameters, tokens and compute, and the best sizes."""

from collections.abc import Iterable, Sequence

import altair as alt
import numpy as np

from reporting.charts import COLORS, LOSSES, POSITIONS, Rows, Spec, inline, to_spec
from reporting.scaling import Law, Points, round_tokens

STEPS = 40
SIZE = "Parameters outside of embeddings"


def charts(data: Points, law: Law) -> dict[str, Spec]:
    """Returns the specs by heading. Dots are runs, lines are the law."""
    tokens = [f"{round_tokens(one) / 1e6:g}M tokens" for one in data.tokens]
    sizes = [f"{one:,.0f} parameters" for one in data.parameters]
    x = np.geomspace(data.parameters.min(), 2 * data.parameters.max(), STEPS)
    by_tokens = dict(zip(tokens, data.tokens, strict=True)).items()
    over_size = [row for label, of in by_tokens for row in _rows(x, law.loss(x, of), label)]
    x = np.geomspace(data.tokens.min(), 2 * data.tokens.max(), STEPS)
    by_size = dict(zip(sizes, data.parameters, strict=True)).items()
    over_tokens = [row for label, of in by_size for row in _rows(x, law.loss(of, x), label)]
    x = np.geomspace(data.flops.min(), 4 * data.flops.max(), STEPS)
    losses = [float(law.loss_for_flops(law.best_size(flops), flops)) for flops in x]
    frontier = _rows(x, losses, "the best size")
    return {
        "Loss against parameters: runs, and the fitted law": _chart(
            data, data.parameters, tokens, over_size, SIZE
        ),
        "Loss against tokens: runs, and the fitted law": _chart(
            data, data.tokens, sizes, over_tokens, "Tokens seen"
        ),
        "Loss against compute: runs, and the law's best size": _chart(
            data, data.flops, sizes, frontier, POSITIONS["flops"][1]
        ),
        "Equal FLOPs: the law over the size, and the best size": _equal_flops(data, law),
    }


def _rows(x: np.ndarray, losses: Iterable[float], label: str) -> Rows:
    return [{"x": at, "loss": float(loss), "of": label} for at, loss in zip(x, losses, strict=True)]


def _chart(data: Points, x: np.ndarray, groups: list[str], lines: Rows, title: str) -> Spec:
    """Draws the runs as dots and the law as lines, colored by group."""
    dots = [
        {"x": at, "loss": loss, "of": group, "run": run.name}
        for at, loss, group, run in zip(x, data.loss, groups, data.runs, strict=True)
    ]
    encoding = _encoding(title, [*(row["of"] for row in lines), *groups])
    tooltip = ["run:N", "of:N", alt.Tooltip("loss:Q", format=".4f"), alt.Tooltip("x:Q")]
    law = inline(lines).mark_line(strokeWidth=1.5, opacity=0.8).encode(*encoding)
    runs = inline(dots).mark_point(filled=True, size=60, opacity=1)
    chart = law + runs.encode(*encoding, tooltip=tooltip)
    return to_spec(chart, 300, f"Validation loss against {title.lower()}.")


def _equal_flops(data: Points, law: Law) -> Spec:
    """Draws the loss over the size for a few compute budgets, and marks each lowest point."""
    lines: Rows = []
    best: Rows = []
    sizes = np.geomspace(data.parameters.min() / 2, 4 * data.parameters.max(), 2 * STEPS)
    for flops in np.geomspace(np.median(data.flops) / 2, 2 * data.flops.max(), 4):
        label = f"{flops:.1e} FLOPs".replace("e+", "e")
        losses = law.loss_for_flops(sizes, flops)
        near = losses < 2 * data.loss.min()
        lines += _rows(sizes[near], losses[near], label)
        size = np.array([law.best_size(flops)])
        best += _rows(size, law.loss_for_flops(size, flops), label)
    encoding = _encoding(SIZE, [row["of"] for row in best])
    tooltip = ["of:N", alt.Tooltip("x:Q", format=",.0f"), alt.Tooltip("loss:Q", format=".3f")]
    curves = inline(lines).mark_line(strokeWidth=1.5).encode(*encoding)
    lowest = inline(best).mark_point(filled=True, size=90, opacity=1)
    chart = curves + lowest.encode(*encoding, tooltip=tooltip)
    return to_spec(chart, 300, "Loss over model size at equal FLOPs.")


def _encoding(title: str, groups: Sequence[str]) -> tuple[alt.X, alt.Y, alt.Color]:
    x = alt.X("x:Q", title=title, scale=alt.Scale(type="log"))
    y = alt.Y("loss:Q", title=LOSSES["val"][1], scale=alt.Scale(type="log", nice=False))
    color = alt.Color("of:N", title=None).scale(domain=list(dict.fromkeys(groups)), range=COLORS)
    return x.axis(tickCount=6, format="~s"), y.axis(format=".3~f", tickCount=7), color
