"""Section "Through the layers": a chart of the logit lens, and tables with shaded cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from reporting.charts import LEGEND_COLUMNS, SHAPES, Spec, inline, to_spec
from reporting.inside_parts import Figure, Inside, Section, colors, visible, with_view


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None without attention."""
    runs = {inside.name: inside.views["layers"] for inside in with_view(insides, "layers")}
    if not runs:
        return None
    lenses = {name: run["lens"] for name, run in runs.items() if run["lens"]}
    left_out = []
    for inside in insides:
        missing = missing_of(runs.get(inside.name))
        left_out += [f"{inside.name} is left out of {missing}"] if missing else []
    return Section(
        name="layers",
        title="Through the layers",
        question="Where in the model does a prediction come about?",
        reading="Each table has the text from left to right and the model's parts from top to "
        "bottom; a cell is the darker the more certain or the larger it is.",
        figures=[lens_figure(lenses, colors(insides))] if lenses else [],
        data={
            "guesses": {name: guesses(runs[name]) for name in lenses},
            "terms": {name: terms(run) for name, run in runs.items() if run["parts"]},
            "patches": {name: patches(run) for name, run in runs.items()},
        },
        left_out=left_out,
    )


def missing_of(run: Mapping[str, Any] | None) -> str:
    """Returns which views a run lacks, and why; "" if it has all."""
    if run is None:
        return "the layers: it has no attention"
    if not run["parts"]:
        return "the sum of logits: its head is not linear"
    return "" if run["lens"] else "the logit lens: it has no residual stream"


def lens_figure(lenses: Mapping[str, Mapping[str, Any]], shades: Mapping[str, str]) -> Figure:
    """Returns the held-out loss at each point of the residual stream."""
    points = max((lens["points"] for lens in lenses.values()), key=len)
    return Figure(
        "Loss if the last norm and the head read the residual stream early",
        lens_chart(lenses, points, shades),
        ["run", *points],
        [
            [
                name,
                *(
                    dict(zip(lens["points"], lens_texts(lens), strict=True)).get(point, "")
                    for point in points
                ),
            ]
            for name, lens in lenses.items()
        ],
    )


def lens_texts(lens: Mapping[str, Any]) -> list[str]:
    """Returns the loss at each point with its standard error."""
    pairs = zip(lens["loss"], lens["loss_error"], strict=True)
    return [f"{loss:.3f} ± {error or 0:.3f}" for loss, error in pairs]


def lens_chart(
    runs: Mapping[str, Mapping[str, Any]], points: Sequence[str], shades: Mapping[str, str]
) -> Spec:
    """Draws the held-out loss at each point of the residual stream."""
    rows = [
        {"run": name, "point": point, "loss": loss}
        for name, lens in runs.items()
        for point, loss in zip(lens["points"], lens["loss"], strict=True)
    ]
    legend = alt.Legend(
        title=None, orient="top", columns=LEGEND_COLUMNS, labelLimit=240, symbolOpacity=1
    )
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(runs))]
    encodings = [
        alt.X("point:O", title=None, sort=points, axis=alt.Axis(labelAngle=-35)),
        alt.Y("loss:Q", title="Loss, nats per token", scale=alt.Scale(type="log", nice=False)),
        alt.Color("run:N", legend=legend).scale(domain=[*runs], range=[shades[x] for x in runs]),
        alt.Shape("run:N", legend=legend).scale(domain=[*runs], range=shapes),
    ]
    tooltip = ["run:N", "point:N", alt.Tooltip("loss:Q", format=".3f")]
    mark = inline(rows).mark_line(point=alt.OverlayMarkDef(size=50), strokeWidth=2)
    what = "Loss of each run if its last norm and head read the residual stream at each point."
    return to_spec(mark.encode(*encodings, tooltip=tooltip), 300, what)


# Rows and cells are lists, and not objects, for the page holds thousands: see inside_layers.html.
Cell = list[str]  # Text, shade, title, class.
Row = list[Any]  # Name, number, cells.


def grid(heads: Sequence[tuple[str, list[Cell]]], column: str, rows: list[Row]) -> dict[str, Any]:
    """Returns a table: rows of text above it, the name of its column of numbers, and its rows."""
    return {"heads": heads, "column": column, "rows": rows}


def text_above(run: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    """Returns the text and its next tokens, as rows above a table."""
    pieces = [[visible(piece), "0", "", ""] for piece in run["pieces"]]
    return [("text", pieces[:-1]), ("next token", pieces[1:])]


def guesses(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the best guess of each point of the stream at each token, shaded by probability."""
    lens = run["lens"]
    fields = (lens[key] for key in ("points", "loss", "top", "p_top", "p_right"))
    rows: list[Row] = []
    for point, loss, top, p_top, p_right in zip(*fields, strict=True):
        cells = [
            [visible(token), f"{p:.2f}", f"p {p:.2f}; of the right token {right:.2f}", ""]
            for token, p, right in zip(top, p_top, p_right, strict=True)
        ]
        rows.append([point, f"{loss:.2f}", cells])
    return grid(text_above(run), "loss", rows)


def terms(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what each part adds to the right token's logit: the mean, and at each token."""
    parts = run["parts"]
    most = max(abs(term) for row in parts["terms"] for term in row) or 1
    fields = (parts[key] for key in ("names", "mean", "mean_error", "terms"))
    return grid(
        text_above(run),
        "mean",
        [
            [name, f"{mean:+.2f} ± {error or 0:.2f}", [shaded(term, most) for term in row]]
            for name, mean, error, row in zip(*fields, strict=True)
        ],
    )


def patches(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns by how much patching each place, or a head, makes the clean text's target likelier.

    The text differs from the changed one where it is marked.
    """
    found = run["patches"]
    most = abs(found["clean"] - found["other"]) or 1
    clean, other = found["clean_tokens"], found["other_tokens"]
    marks = ["" if one == two else "marked" for one, two in zip(clean, other, strict=True)]
    above = [
        (name, [[visible(token), "0", "", mark] for token, mark in zip(text, marks, strict=True)])
        for name, text in (("clean", clean), ("changed", other))
    ]
    rows: list[Row] = [
        [name, "", [shaded(log - found["other"], most) for log in logs]]
        for name, logs in zip(found["points"], found["stream"], strict=True)
    ]
    return {
        **grid(above, "", rows),
        "target": visible(found["target"]),
        "from": f"{found['other']:.2f}",
        "to": f"{found['clean']:.2f}",
        "of_heads": ", ".join(
            f"{layer}.{head} {log - found['other']:+.2f}"
            for layer, logs in enumerate(found["heads"], 1)
            for head, log in enumerate(logs, 1)
        ),
    }


def shaded(value: float, most: float) -> Cell:
    """Returns a cell with a number, shaded by its share of the greatest one."""
    rounded = round(value, 1)
    text = f"{rounded:.1f}" if rounded else "0"
    negative = "negative" if value < 0 else ""
    return [text, f"{min(abs(value) / most, 1):.2f}", f"{value:+.3f}", negative]
