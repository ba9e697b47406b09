"""The comparison as one HTML file that needs nothing else: no network, no file beside it.

Run names, notes and samples may hold anything. Jinja escapes what becomes markup and `tojson`
what becomes data, the script sets texts only as texts, and a Content-Security-Policy lets no
script run but the page's own, known by its hash, and nothing be loaded.
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
from reporting.rows import COLUMNS, NUMBERS, differences, group_seeds, table
from reporting.runs import Run, number, plain

HERE = Path(__file__).parent
# More texts than these nobody compares.
MOST_SAMPLES = 8
Swept = Sequence[tuple[sweeps.Sweep, dict[str, dict]]]
NO_SAMPLE = {"when": "no sample yet", "prompt": "", "text": ""}


def render(runs: Sequence[Run], swept: Swept, unread: Sequence[str]) -> str:
    """The page that compares `runs`, with the sweeps among them and the charts of each, and says
    which runs could not be read.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [vega_library(), (HERE / "page.js").read_text(encoding="utf-8")]
    colors = charts.palette(runs)
    rows = dict(zip([run.name for run in runs], table(runs), strict=True))
    differ, same = differences(runs)
    return environment.get_template("page.html").render(
        policy=" ".join(f"'sha256-{sha256(script)}'" for script in scripts),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        heading=heading(runs),
        best=best(runs),
        unread=unread,
        columns={column: COLUMNS[column] for column in rows[runs[0].name]},
        numbers=NUMBERS,
        rows=rows,
        sweeps=[sweep_texts(i, *made) for i, made in enumerate(swept)],
        samples={run.name: samples(run) or [NO_SAMPLE] for run in with_samples(runs)},
        run_names=[run.name for run in runs],
        groups=[(label, colors[label], len(group)) for label, group in group_seeds(runs).items()],
        color_of={
            run.name: colors[label] for label, group in group_seeds(runs).items() for run in group
        },
        positions={name: title for name, (_, title) in charts.POSITIONS.items()},
        differ=differ,
        same=same,
        mixed_tokens=len({run.config.get("data.tokenizer") for run in runs}) > 1,
        mixed_devices="device" in differ,
        data={**data(runs), "sweeps": [list(made.values()) for _, made in swept]},
    )


def data(runs: Sequence[Run]) -> dict:
    """What the page's script draws from."""
    points = charts.points(runs)
    return {
        "theme": charts.THEME,
        "points": points,
        "curves": charts.curves(runs, points),
        "bits": charts.bits_chart(runs),
        "log": charts.log_by_default(runs),
        "samples": [samples(run) for run in with_samples(runs)],
        "no_sample": NO_SAMPLE,
    }


def sweep_texts(place: int, sweep: sweeps.Sweep, made: dict[str, dict]) -> dict:
    """What the page says of the sweep at a place in its list, and where its charts go."""
    best = sweep.best
    return {
        "title": f"What sweep {sweep.sweep_id} found",
        "counts": sweeps.counts(sweep),
        "metric": sweep.metric,
        "best": best and f"{sweep.value(best):.4f}",
        "name": best and best.name,
        "command": best and sweeps.command(best),
        "statements": sweeps.statements(sweep),
        "no_importance": sweep_charts.IMPORTANCE not in made,
        "charts": {heading: f"sweep-{place}-{i}" for i, heading in enumerate(made)},
    }


def with_samples(runs: Sequence[Run]) -> Sequence[Run]:
    """The runs whose texts are shown: all, or of many the ones that predict best."""
    if len(runs) <= MOST_SAMPLES:
        return runs
    measured = [run for run in runs if run.last("val/bits_per_byte") is not None]
    return sorted(measured, key=lambda run: run.last("val/bits_per_byte"))[:MOST_SAMPLES]


def samples(run: Run) -> list[dict]:
    """The texts a run has written, oldest first, each with what is said about it."""
    made = []
    for sample in run.samples:
        prompt = str(sample.get("prompt", ""))
        made.append(
            {
                "step": sample["step"],
                "when": f"after {sample['step']:,} updates, prompt {json.dumps(prompt)}",
                # A line end is nothing to show before the text.
                "prompt": prompt if prompt.strip() else "",
                "text": str(sample.get("text", "")),
            }
        )
    return made


def heading(runs: Sequence[Run]) -> str:
    """What is compared: `5 runs on tiny_shakespeare`."""
    names = {plain(run.config.get("data.name", "")) for run in runs}
    text = next(iter(names)) if len(names) == 1 else f"{len(names)} data sets"
    return f"{len(runs)} run{'s' if runs[1:] else ''} on {text}"


def best(runs: Sequence[Run]) -> Run | None:
    """The run that predicts a byte of text best, which holds across tokenizers."""
    measured = [run for run in runs if number(run.last("val/bits_per_byte")) is not None]
    return min(measured, key=lambda run: run.last("val/bits_per_byte"), default=None)


def vega_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes for."""
    return vl_convert.javascript_bundle(vl_version=charts.VEGA_LITE)


def sha256(script: str) -> str:
    """A script's digest, as a Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
