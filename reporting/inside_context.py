"""Section "How far back?": the loss with only the last c tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reporting.charts import LEGEND_COLUMNS, SHAPES, Spec, inline, to_spec
from reporting.inside_parts import Figure, Inside, Section, colors, with_view

# Nats within which the loss counts as that with the whole context.
CLOSE = 0.02


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None without a run."""
    runs = {inside.name: inside.views["context"] for inside in with_view(insides, "context")}
    if not runs:
        return None
    lengths = sorted({length for run in runs.values() for length in run["lengths"]})
    num = max(run["num_targets"] for run in runs.values())
    rows = []
    for name, run in runs.items():
        found = cells(run)
        rows.append([name, f"{reach(run)}", *(found.get(length, "") for length in lengths)])
    return Section(
        name="context",
        title="How far back?",
        question="How many of the tokens before it does a prediction use?",
        reading="A line is the loss when the model sees only that many tokens: where it is flat, "
        "more text is of no use. Bars are two standard errors; hollow marks are the loss at those "
        "positions of the evaluation's windows, which have as many tokens before them. In the "
        f"table: that loss minus the one with all tokens, paired over {num:,} targets, ± one "
        "standard error; and how many tokens are enough for a difference of at most "
        f"{CLOSE} nats.",
        figures=[
            Figure(
                "Loss with only the last tokens",
                chart(runs, colors(insides)),
                ["run", "enough", *(f"{length}" for length in lengths)],
                rows,
            )
        ],
    )


def chart(runs: Mapping[str, Mapping[str, Any]], colors: Mapping[str, str]) -> Spec:
    """Draws the loss against the number of tokens, with bars of two standard errors.

    The hollow marks are the losses by position in the window.
    """
    rows, parts = [], []
    for name, run in runs.items():
        for length, loss, error in zip(run["lengths"], run["loss"], run["loss_error"], strict=True):
            ends = {"low": loss - 2 * (error or 0), "high": loss + 2 * (error or 0)}
            rows.append({"run": name, "tokens": length, "loss": loss, **ends})
        for part in run["positions"]:
            where = f"{part['first']} to {part['last']}"
            middle = (part["first"] * part["last"]) ** 0.5
            parts.append({"run": name, "tokens": middle, "where": where, "loss": part["loss"]})
    x = alt.X("tokens:Q", title="Tokens that the model sees", scale=alt.Scale(type="log", base=2))
    y = alt.Y("loss:Q", title="Loss, nats per token", scale=alt.Scale(zero=False))
    legend = alt.Legend(
        title=None, orient="top", columns=LEGEND_COLUMNS, labelLimit=240, symbolOpacity=1
    )
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(runs))]
    color = alt.Color("run:N", legend=legend).scale(domain=[*runs], range=[colors[x] for x in runs])
    shape = alt.Shape("run:N", legend=legend).scale(domain=[*runs], range=shapes)
    base = inline(rows).encode(x, y, color)
    error = base.mark_rule(strokeWidth=2, opacity=0.5).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2)
    tooltip = ["run:N", "tokens:Q", alt.Tooltip("loss:Q", format=".3f")]
    point = base.mark_point(size=50, filled=True, opacity=1).encode(shape, tooltip=tooltip)
    tooltip = ["run:N", alt.Tooltip("where:N", title="positions"), tooltip[-1]]
    hollow = inline(parts).mark_point(size=50, opacity=0.8).encode(x, y, color, shape)
    what = "Loss of each run with only the last tokens before each target."
    return to_spec(alt.layer(error, line, hollow.encode(tooltip=tooltip), point), 360, what)


def reach(run: Mapping[str, Any]) -> int:
    """Returns the least number of tokens with which the loss is CLOSE to that with all."""
    pairs = zip(run["lengths"], run["difference"], strict=True)
    return next(length for length, difference in pairs if difference <= CLOSE)


def cells(run: Mapping[str, Any]) -> dict[int, str]:
    """Returns, for each number of tokens, the difference to the whole context and its error."""
    values = zip(run["lengths"], run["difference"], run["difference_error"], strict=True)
    return {length: f"{mean:+.3f} ± {error or 0:.3f}" for length, mean, error in values}
