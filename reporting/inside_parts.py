"""Parts of the page of look_inside.py: what was measured in a run, a section, its figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reporting.charts import COLORS, Spec
from reporting.runs import Run, sanitize


@dataclass(frozen=True)
class Inside:
    """Measurements of a run: a dictionary a view, as `inspection/` gives it."""

    name: str
    stage: int
    step: int
    text: str  # What it was measured on.
    loss: float
    views: dict[str, Any]

    @classmethod
    def from_json(cls, run: Run, content: dict[str, Any]) -> "Inside":
        """Returns the content of a run's file. Raises KeyError, TypeError or ValueError."""
        return cls(
            run.name,
            run.stage,
            int(content["step"]),
            sanitize(content["text"]),
            float(content["loss"]),
            dict(content["views"]),
        )


@dataclass(frozen=True)
class Figure:
    """A chart, and the table that says the same in words and numbers."""

    heading: str
    spec: Spec
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A section of the page. The template of `name` draws what is no chart, from `data`."""

    name: str
    title: str
    question: str
    reading: str  # A sentence on how to read it.
    figures: Sequence[Figure] = ()
    data: Any = None
    left_out: Sequence[str] = field(default_factory=list)


def colors(insides: Sequence[Inside]) -> dict[str, str]:
    """Returns a color for each run, by name."""
    return {inside.name: COLORS[i % len(COLORS)] for i, inside in enumerate(insides)}


def with_view(insides: Sequence[Inside], view: str) -> list[Inside]:
    """Returns those that have a view."""
    return [inside for inside in insides if inside.views.get(view)]


def alike(insides: Sequence[Inside], view: str, where: str) -> tuple[list[Inside], list[str]]:
    """Returns those with a view whose tokens are the same as most have, and a line for others.

    The line says that the run is left out of `where`.
    """
    by_units: dict[str, list[Inside]] = {}
    known = with_view(insides, view)
    for inside in known:
        by_units.setdefault((inside.views.get("tokens") or {}).get("units", ""), []).append(inside)
    same = max(by_units.values(), key=len, default=[])
    return same, [
        f"{inside.name} is left out of {where}: its tokens, or its text, are not those of the "
        "others"
        for inside in known
        if inside not in same
    ]


def visible(piece: str) -> str:
    """Returns a token as it is shown alone."""
    return piece.replace("\n", "⏎").replace(" ", "␣")
