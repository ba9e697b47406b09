"""Page of what look_inside.py measured: sections with a question, a figure and its table.

Reads `inside.json` of each run. A section is a function of this package that takes what is there
and returns a `Section`, or None where nothing is.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import run_folder
from reporting import (
    charts,
    inside_account,
    inside_context,
    inside_growth,
    inside_heads,
    inside_layers,
    inside_passage,
    inside_tables,
    inside_tokens,
    inside_yardstick,
    template,
)
from reporting.charts import Spec
from reporting.inside_parts import Inside, Section, with_view
from reporting.records import where
from reporting.runs import Run, sanitize
from runtime.errors import UserError

SECTIONS: tuple[Callable[[Sequence[Inside]], Section | None], ...] = (
    inside_passage.section,
    inside_account.section,
    inside_yardstick.section,
    inside_context.section,
    inside_heads.section,
    inside_layers.section,
    inside_tables.section,
    inside_growth.section,
)


class Found(NamedTuple):
    """Measurements of some runs, by stage; and a line for each that can't be shown."""

    insides: list[Inside]
    unread: list[str]


def read(runs: Sequence[Run]) -> Found:
    """Returns what was measured in those of the runs that were looked into."""
    insides, unread = [], []
    for run in runs:
        path = run.folder / run_folder.INSIDE
        if not path.exists():
            continue
        try:
            inside = Inside.from_json(run, run_folder.read_object(path))
            sections([inside])  # A file of another version, or changed by hand, may lack a part.
            insides.append(inside)
        except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
            unread.append(sanitize(f"{path} can't be read: {error!r}: look inside again"))
    return Found(insides, unread)


def sections(insides: Sequence[Inside]) -> list[Section]:
    """Returns the sections that the runs allow, in the page's order."""
    return [section for make in SECTIONS if (section := make(insides))]


def render(insides: Sequence[Inside], unread: Sequence[str] = ()) -> str:
    """Returns the page."""
    made = sections(insides)
    scripts = [*template.chart_scripts(), *own_scripts()]
    return template.fill(
        "inside.html",
        scripts,
        version="",
        title="What did each idea buy?",
        insides=insides,
        unread=[*unread, *(line for section in made for line in section.left_out)],
        sections=made,
        data={"theme": charts.THEME, **data_of(made)},
    )


def figures(insides: Sequence[Inside]) -> dict[str, Spec]:
    """Returns all charts, by the section's name and their headings up to the first punctuation."""
    return {
        f"{section.name}/{re.split('[^a-zA-Z -]', figure.heading)[0]}": figure.spec
        for section in sections(insides)
        for figure in section.figures
    }


def heads(insides: Sequence[Inside]) -> list[dict[str, Any]]:
    """Returns a row for each head: its run, layer and number, scores, and what it buys."""
    return [
        {"run": inside.name, **{name: x for name, x in row.items() if name != "spectrum"}}
        for inside in with_view(insides, "heads")
        for row in inside.views["heads"]["heads"]
    ]


def records(insides: Sequence[Inside], runs: Sequence[Run]) -> dict[str, Any]:
    """Returns what docs/measured keeps: where the runs were made, n-grams, and a record of each.

    The losses of n-grams are by order, in the first run's units. A record has the run's loss, the
    nats gained over the run before it by kind of character, the n-gram that is as good, its heads,
    and the last text that it wrote in training. A run that is not on the others' text has no gains.
    """
    same, _ = inside_tokens.on_one_text(insides)
    gains = {one.name: one.gains for one in inside_account.steps(inside_tokens.align(same))}
    found, machines = numbers(insides), where(runs)
    by_name = {run.name: run for run in runs}
    n_grams: dict[int, float] = {}
    for inside in with_view(insides, "yardstick")[:1]:
        view = inside.views["yardstick"]
        n_grams = dict(zip(view["orders"], view["losses"], strict=True))
    return {
        "machines": machines,
        "n_grams": n_grams,
        "runs": [
            {
                "name": inside.name,
                "step": inside.step,
                "text": inside.text,
                **{
                    key.removeprefix(f"{inside.name}/"): value
                    for key, value in found.items()
                    if key.rpartition("/")[0] == inside.name
                },
                "gains": gains.get(inside.name),
                "heads": _heads(inside),
                "sample": by_name[inside.name].samples[-1]
                if by_name[inside.name].samples
                else None,
            }
            for inside in insides
        ],
    }


def _heads(inside: Inside) -> list[dict[str, Any]]:
    """Returns a run's heads, with the weight on the tokens at distance 0, 1, 2 and 3 alone."""
    return [
        {name: x for name, x in row.items() if name != "spectrum"}
        | {"distances": row["spectrum"][:4]}
        for row in (inside.views.get("heads") or {}).get("heads", [])
    ]


def numbers(insides: Sequence[Inside]) -> dict[str, float | None]:
    """Returns the numbers that sum up each run: its loss, and the n-gram that is as good."""
    found: dict[str, float | None] = {f"{one.name}/loss": one.loss for one in insides}
    for inside in with_view(insides, "yardstick"):
        view = inside.views["yardstick"]
        found |= {
            f"{inside.name}/as_good_as_n_gram": view["as_good_as"],
            f"{inside.name}/nearest_n_gram": view["nearest"],
        }
    return found


def own_scripts() -> list[str]:
    """Returns the scripts of the sections."""
    return [template.read(name) for name in ("elements.js", "inside.js", "inside_heads.js")]


def data_of(made: Sequence[Section]) -> dict[str, Any]:
    """Returns what the scripts need of the sections on their page."""
    return {
        "figures": {
            f"{section.name}-{place}": figure.spec
            for section in made
            for place, figure in enumerate(section.figures)
        },
        "sections": {section.name: section.data for section in made if section.data},
    }
