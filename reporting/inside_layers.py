"""Through the layers of each run: a chart of the lens, and tables whose cells are shaded."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reporting.charts import SHAPES, Spec, inline, to_spec


def lens_chart(runs: Mapping[str, Mapping[str, Any]], colors: Mapping[str, str]) -> Spec:
    """Draws the held-out loss at each point of the residual stream."""
    rows = [
        {"run": name, "point": point, "loss": loss}
        for name, lens in runs.items()
        for point, loss in zip(lens["points"], lens["loss"], strict=True)
    ]
    points = max((lens["points"] for lens in runs.values()), key=len)
    legend = alt.Legend(title=None, orient="top", columns=2, labelLimit=240, symbolOpacity=1)
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(runs))]
    encodings = [
        alt.X("point:O", title=None, sort=points, axis=alt.Axis(labelAngle=-35)),
        alt.Y("loss:Q", title="Loss, nats per token", scale=alt.Scale(type="log", nice=False)),
        alt.Color("run:N", legend=legend).scale(domain=[*runs], range=[colors[x] for x in runs]),
        alt.Shape("run:N", legend=legend).scale(domain=[*runs], range=shapes),
    ]
    tooltip = ["run:N", "point:N", alt.Tooltip("loss:Q", format=".3f")]
    mark = inline(rows).mark_line(point=alt.OverlayMarkDef(size=50), strokeWidth=2)
    what = "Loss of each run if its last norm and head read the residual stream at each point."
    return to_spec(mark.encode(*encodings, tooltip=tooltip), 300, what)


def visible(token: str) -> str:
    """Returns a token with marks for spaces and line ends."""
    return token.replace("\n", "↵").replace(" ", "␣")


def guesses(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for each point of the stream: its loss, and its guess at each token."""
    lens = run["lens"]
    values = zip(
        lens["points"], lens["loss"], lens["top"], lens["p_top"], lens["p_right"], strict=True
    )
    return [
        {
            "name": point,
            "value": f"{loss:.2f}",
            "cells": [
                {
                    "text": visible(token),
                    "shade": f"{p:.2f}",
                    "is_negative": False,
                    "title": f"{p:.2f}; right token {right:.2f}",
                }
                for token, p, right in zip(top, p_top, p_right, strict=True)
            ],
        }
        for point, loss, top, p_top, p_right in values
    ]


def contributions(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for each part of the logit: its mean, and what it adds at each token."""
    parts = run["parts"]
    most = max(abs(term) for row in parts["terms"] for term in row) or 1
    pairs = zip(parts["names"], parts["mean"], parts["mean_error"], parts["terms"], strict=True)
    return [
        {
            "name": name,
            "value": f"{mean:+.2f} ± {error or 0:.2f}",
            "cells": [shaded(term, most) for term in terms],
        }
        for name, mean, error, terms in pairs
    ]


def patches(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for each point of the stream: what each patch adds to log p of the target."""
    found = run["patches"]
    most = abs(found["clean"] - found["other"]) or 1
    return [
        {"name": name, "value": "", "cells": [shaded(log - found["other"], most) for log in logs]}
        for name, logs in zip(found["points"], found["stream"], strict=True)
    ]


def heads(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns each head's name, and what patching it everywhere adds to log p of the target."""
    found = run["patches"]
    return [
        (f"{layer}.{head}", f"{log - found['other']:+.2f}")
        for layer, logs in enumerate(found["heads"], 1)
        for head, log in enumerate(logs, 1)
    ]


def shaded(value: float, most: float) -> dict[str, Any]:
    """Returns a cell with a number, shaded by its share of the greatest one."""
    rounded = round(value, 1)
    text = f"{rounded:.1f}" if rounded else "0"
    return {
        "text": text,
        "shade": f"{min(abs(value) / most, 1):.2f}",
        "is_negative": value < 0,
        "title": f"{value:+.3f}",
    }


def characters(tokens: Sequence[str], others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns the cells of a text above a table, marked where it differs from another one."""
    others = others or tokens
    pairs = zip(tokens, others, strict=True)
    return [{"text": visible(token), "is_marked": token != other} for token, other in pairs]
