"""Renders the comparison as one HTML file, which needs no network and no other file."""

import json
from collections.abc import Sequence
from typing import Any

from reporting import charts, inside, records, rows, staircase, sweep_charts, sweeps, template
from reporting.charts import Spec
from reporting.groups import labels
from reporting.inside_parts import Inside, Section
from reporting.runs import Run, sanitize

# Nobody compares more texts than these.
MAX_SAMPLES = 8
Swept = Sequence[tuple[sweeps.Sweep, dict[str, Spec]]]


def render(
    runs: Sequence[Run],
    swept: Swept,
    unread: Sequence[str],
    version: str = "",
    insides: Sequence[Inside] = (),
    playgrounds: Sequence[str] = (),
) -> str:
    """Returns the page: `runs` compared, the sweeps among them with charts, the unread runs.

    Where models were looked into, their sections follow. `playgrounds` are the addresses of pages
    with the models, which the page links. A page with a version looks for a newer
    one where it came from.
    """
    sections = inside.sections(insides)
    scripts = [*template.chart_scripts(), template.read("page.js")]
    if sections:
        scripts += inside.own_scripts()
    if version:
        scripts.append(template.read("watch.js"))
    colors = charts.palette(runs)
    cells = dict(zip([run.name for run in runs], rows.table(runs), strict=True))
    differ, same = rows.differences(runs)
    shown = {run.name: samples(run) for run in with_samples(runs)}
    return template.fill(
        "page.html",
        scripts,
        version=version,
        title=title(runs, [sweep for sweep, _ in swept]),
        heading=heading(runs),
        best=next(iter(by_bits_per_byte(runs)), None),
        unread=[*unread, *(line for section in sections for line in section.left_out)],
        sections=sections,
        playgrounds=playgrounds,
        columns={column: rows.COLUMNS[column] for column in cells[runs[0].name]},
        numbers=rows.NUMBERS,
        rows=cells,
        swept=swept,
        text=sweeps,
        importance=sweep_charts.IMPORTANCE,
        samples=shown,
        colors=colors,
        color_of={name: colors[label] for name, label in labels(runs).items()},
        positions=charts.POSITIONS,
        differ=differ,
        same=same,
        origin=origin(runs),
        mixed_tokens=len({run.config.get("data.tokenizer") for run in runs}) > 1,
        mixed_devices="device" in differ,
        data=data_of(runs, shown, swept, sections),
    )


def data_of(
    runs: Sequence[Run],
    shown: dict[str, list[dict]],
    swept: Swept,
    sections: Sequence[Section],
) -> dict[str, Any]:
    """Returns what the page's scripts draw; `shown` are the samples of each run."""
    points = charts.points(runs)
    return {
        "theme": charts.THEME,
        "curves": charts.curves(runs, points),
        "bits": charts.bits_chart(runs),
        "staircase": staircase.ladder(runs),
        # Of the files to download: rows, with the names of fields in full.
        "csv": {"runs": records.records(runs, [])["runs"], "curves": points},
        "fields": {**charts.METRICS, "name": "run", "series": "group"},
        "log": charts.log_by_default(runs),
        "samples": list(shown.values()),
        "no_sample": {"when": "no sample yet", "prompt": "", "text": ""},
        "sweeps": [list(specs.values()) for _, specs in swept],
        **inside.data_of(sections),
    }


def waiting(message: str, version: str) -> str:
    """Returns a page that only tells a message, and looks for a newer one."""
    scripts = [template.read("watch.js")]
    return template.fill("waiting.html", scripts, title="Report", version=version, message=message)


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


def title(runs: Sequence[Run], found: Sequence[sweeps.Sweep]) -> str:
    """Returns the page's title: the question of the sweep that all runs belong to, or `heading`."""
    (sweep_id, *others) = {run.sweep_id for run in runs}
    questions = [sweep.question for sweep in found if sweep.sweep_id == sweep_id and not others]
    return "".join(questions) or heading(runs)


def origin(runs: Sequence[Run]) -> dict[str, str]:
    """Returns when, with which code, and on which machine the runs were made, in one line each."""
    of_runs = [rows.origin(run) for run in runs]
    shown = {}
    for name in dict.fromkeys(name for one in of_runs for name in one):
        values = sorted({one.get(name, rows.MISSING) for one in of_runs})
        if len(values) == 1:
            shown[name] = values[0]
        elif name == "date":
            shown[name] = f"{values[0]} to {values[-1]}"
        else:
            shown[name] = f"{len(values)} different ones, under settings that differ"
    return shown


def heading(runs: Sequence[Run]) -> str:
    """Returns what the page compares: `5 runs on tiny_shakespeare`."""
    names = {sanitize(run.config.get("data.name", "")) for run in runs}
    text = names.pop() if len(names) == 1 else f"{len(names)} data sets"
    return f"{len(runs)} run{'s' if runs[1:] else ''} on {text}"
