"""The charts of the page as files, for slides and documents: `report.py --figures=FOLDER`."""

import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import vl_convert

from reporting import charts
from reporting.runs import Run, plain

# Pixels; the page's charts are as wide as it is.
WIDTH = 640
LOOK = {**charts.THEME, "background": "white", "axisYDiscrete": {"labelLimit": 300}}
# Of a file's name, which file systems bound.
LONGEST = 80
# Integers that a number of JavaScript holds exactly.
MOST_EXACT = 2**53


def write(folder: Path, runs: Sequence[Run], sweeps: Sequence[dict[str, dict]]) -> list[Path]:
    """Writes an SVG for each chart of the comparison and of `sweeps`: their files' paths.

    Raises OSError if that can't be done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, spec in _specs(runs, sweeps):
        spellings = (f"{name}.svg" if i == 1 else f"{name}-{i}.svg" for i in count(1))
        path = next(path for each in spellings if (path := folder / each) not in paths)
        svg = vl_convert.vegalite_to_svg(_sound(spec), vl_version=charts.VEGA_LITE, config=LOOK)
        path.write_text(svg, encoding="utf-8")
        paths.append(path)
    return paths


def _specs(runs: Sequence[Run], sweeps: Sequence[dict[str, dict]]) -> Iterator[tuple[str, dict]]:
    """Each chart with its data and a width, and what its file is called."""
    # The page's own list tells more curves apart; a picture has nothing but names at their ends.
    if len(charts.palette(runs)) <= charts.MOST_LABELS:
        points = charts.points(runs)
        curves = charts.curves(runs, points)
        for position, is_log in charts.log_by_default(runs).items():
            spec = curves[f"val {position} {'log' if is_log else 'linear'}"]
            data = {**spec.get("datasets", {}), "points": points}
            yield f"val-loss-against-{position}", _wide({**spec, "datasets": data})
    yield "bits-per-byte", _wide(charts.bits_chart(runs))
    for made in sweeps:
        for heading, spec in made.items():
            yield _file_name(heading), _wide(spec)


def _sound(part: Any) -> Any:
    """A spec without characters that no SVG may hold, and numbers that its library can't read."""
    if isinstance(part, dict):
        return {_sound(key): _sound(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_sound(value) for value in part]
    if isinstance(part, str) and not part.isprintable():
        return plain(part)
    return float(part) if isinstance(part, int) and abs(part) > MOST_EXACT else part


def _wide(spec: dict) -> dict:
    """The chart on a page of its own."""
    return {**spec, "width": WIDTH} if spec.get("width") == "container" else spec


def _file_name(heading: str) -> str:
    """The first part of a heading, in letters and digits that any file system takes."""
    first = re.split("[:;,(]", heading)[0].lower()
    return re.sub("[^a-z0-9]+", "-", first).strip("-")[:LONGEST] or "chart"
