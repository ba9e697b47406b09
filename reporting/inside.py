"""Page of what look_inside.py measured: sections with a question, a figure and its table.

Reads `inside.json` of each run. A section is a function of this package that takes what is there
and returns a `Section`, or None where nothing is.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import run_folder
from reporting import (
    charts,
    inside_account,
    inside_context,
    inside_heads,
    inside_layers,
    inside_passage,
    inside_tables,
    inside_yardstick,
    template,
)
from reporting.inside_parts import Inside, Section
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
            insides.append(Inside.from_json(run, run_folder.read_object(path)))
        except (UserError, KeyError, TypeError, ValueError) as error:
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


def own_scripts() -> list[str]:
    """Returns the scripts of the sections."""
    return [template.read("inside.js"), template.read("inside_heads.js")]


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
