"""Renders the comparison as one HTML file, which needs no network and no other file.

Run names, notes and samples may hold anything. Jinja escapes markup and `tojson` escapes data, the
script writes texts only as text nodes, and a Content-Security-Policy allows the page's own scripts,
by their hashes, and no loading.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2
import vl_convert
from markupsafe import Markup

from reporting import charts, sweep_charts, sweeps
from reporting.charts import Spec
from reporting.rows import COLUMNS, NUMBERS, differences, labels, table
from reporting.runs import Run, sanitize

HERE = Path(__file__).parent
# Nobody compares more texts than these.
MAX_SAMPLES = 8
Swept = Sequence[tuple[sweeps.Sweep, dict[str, Spec]]]


def render(runs: Sequence[Run], swept: Swept, unread: Sequence[str]) -> str:
    """Returns the page: `runs` compared, the sweeps among them with charts, the unread runs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Vega, Vega-Lite and Vega-Embed, in the version that Altair writes for.
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", charts.VEGA_LITE)
    scripts = [library, (HERE / "page.js").read_text(encoding="utf-8")]
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    colors = charts.palette(runs)
    rows = dict(zip([run.name for run in runs], table(runs), strict=True))
    differ, same = differences(runs)
    shown = {run.name: samples(run) for run in with_samples(runs)}
    points = charts.points(runs)
    return environment.get_template("page.html").render(
        policy=" ".join(f"'sha256-{base64.b64encode(x).decode()}'" for x in digests),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        heading=heading(runs),
        best=next(iter(by_bits_per_byte(runs)), None),
        unread=unread,
        columns={column: COLUMNS[column] for column in rows[runs[0].name]},
        numbers=NUMBERS,
        rows=rows,
        swept=swept,
        text=sweeps,
        importance=sweep_charts.IMPORTANCE,
        samples=shown,
        colors=colors,
        color_of={name: colors[label] for name, label in labels(runs).items()},
        positions=charts.POSITIONS,
        differ=differ,
        same=same,
        mixed_tokens=len({run.config.get("data.tokenizer") for run in runs}) > 1,
        mixed_devices="device" in differ,
        data={
            "theme": charts.THEME,
            "points": points,
            "curves": charts.curves(runs, points),
            "bits": charts.bits_chart(runs),
            "log": charts.log_by_default(runs),
            "samples": list(shown.values()),
            "no_sample": {"when": "no sample yet", "prompt": "", "text": ""},
            "sweeps": [list(specs.values()) for _, specs in swept],
        },
    )


def by_bits_per_byte(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs with a finite last bits per byte, which compares tokenizers, best first."""
    finite = [run for run in runs if run.last("val/bits_per_byte") is not None]
    return sorted(finite, key=lambda run: run.last("val/bits_per_byte") or 0)


def with_samples(runs: Sequence[Run]) -> Sequence[Run]:
    """Returns the runs whose samples the page shows: the best ones if there are many."""
    return runs if len(runs) <= MAX_SAMPLES else by_bits_per_byte(runs)[:MAX_SAMPLES]


def samples(run: Run) -> list[dict]:
    """Returns a run's samples as the page shows them, oldest first."""
    shown = []
    for sample in run.samples:
        prompt = str(sample.get("prompt", ""))
        shown.append(
            {
                "step": sample["step"],
                "when": f"after {sample['step']:,} updates, prompt {json.dumps(prompt)}",
                # A prompt of white space would only indent the text.
                "prompt": prompt if prompt.strip() else "",
                "text": str(sample.get("text", "")),
            }
        )
    return shown


def heading(runs: Sequence[Run]) -> str:
    """Returns the page's title: `5 runs on tiny_shakespeare`."""
    names = {sanitize(run.config.get("data.name", "")) for run in runs}
    text = names.pop() if len(names) == 1 else f"{len(names)} data sets"
    return f"{len(runs)} run{'s' if runs[1:] else ''} on {text}"
