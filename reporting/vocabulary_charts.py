"""Charts of runs with different tokenizers: bits per byte and speed over the vocabulary size."""

import math
from collections.abc import Sequence

import altair as alt

from reporting.charts import Spec, inline, to_spec
from reporting.runs import Run, sanitize


def charts(runs: Sequence[Run]) -> dict[str, Spec]:
    """Returns the specs by heading."""
    rows = []
    for run in runs:
        bits, loss = run.last("val/bits_per_byte"), run.last("val/loss")
        seconds, tokens = run.last("seconds"), run.last("tokens_seen")
        if run.vocab_size and bits and loss and seconds and tokens:
            bytes_per_token = loss / math.log(2) / bits
            rows.append(
                {
                    "run": run.name,
                    "tokenizer": sanitize(run.config.get("data.tokenizer", "")),
                    "x": run.vocab_size,
                    "bits": bits,
                    "speed": tokens * bytes_per_token / seconds,
                }
            )
    base = inline(rows).encode(
        alt.X("x:Q", title="Tokens in the vocabulary").scale(type="log", padding=30)
    )
    specs = {}
    for field, title in (
        ("bits", "Bits per byte of validation text"),
        ("speed", "Bytes of training text per second"),
    ):
        y = alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False, padding=20))
        tooltip = ["run:N", "tokenizer:N", alt.Tooltip(f"{field}:Q", format=".4s")]
        dots = base.mark_point(filled=True, size=70, opacity=1).encode(y, tooltip=tooltip)
        names = base.transform_aggregate(
            most=f"max({field})", groupby=["tokenizer", "x"]
        ).mark_text(dy=-12, color="currentColor")
        chart = dots + names.encode(alt.Y("most:Q"), alt.Text("tokenizer:N"))
        heading = f"{title}, against the size of the vocabulary"
        specs[heading] = to_spec(chart, 260, f"{title} against the vocabulary.")
    return specs
