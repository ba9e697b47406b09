"""Writes the charts of a page as SVG files: `--figures=FOLDER` of report.py and look_inside.py."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import vl_convert

from reporting import charts, staircase
from reporting.charts import Spec
from reporting.runs import Run, sanitize
from runtime.errors import UserError

# In pixels; on the page, charts are as wide as the page.
WIDTH = 640
CONFIG = {
    **charts.THEME,
    "background": "white",
    "axisYDiscrete": {"labelLimit": 300},
    # Whoever looks may have wider letters than those that the picture was measured with.
    "padding": {"left": 30, "right": 30, "top": 5, "bottom": 5},
}
# File systems limit the length of names.
MAX_NAME_LENGTH = 80
# JavaScript's numbers hold larger integers only approximately.
MAX_SAFE_INTEGER = 2**53


def write(folder: Path, runs: Sequence[Run], sweeps: Sequence[dict[str, Spec]]) -> list[Path]:
    """Writes an SVG for each chart of the comparison and of `sweeps`, and returns the paths.

    Raises UserError if `folder`, the value of --figures, can't be written to.
    """
    return save(folder, _specs(runs, sweeps))


def save(folder: Path, specs: Iterable[tuple[str, Spec]]) -> list[Path]:
    """Writes an SVG for each name and spec, and returns the paths; equal names get numbers.

    Raises UserError if `folder`, the value of --figures, can't be written to.
    """
    paths: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, spec in specs:
            names = (f"{name}.svg" if i == 1 else f"{name}-{i}.svg" for i in count(1))
            path = next(path for each in names if (path := folder / each) not in paths)
            path.write_text(svg(spec), encoding="utf-8")
            paths.append(path)
    except OSError as error:
        raise UserError(
            f"--figures={folder}: {error.filename} can't be written: {error.strerror}; "
            "name a writable folder"
        ) from None
    return paths


def svg(spec: Spec) -> str:
    """Returns a chart as SVG, on white."""
    if spec.get("width") == "container":
        spec = {**spec, "width": WIDTH}
    return vl_convert.vegalite_to_svg(_clean(spec), vl_version=charts.VEGA_LITE, config=CONFIG)


def curve(runs: Sequence[Run], loss: str, position: str) -> Spec:
    """Returns the loss curves over one position, with their data."""
    points, is_log = charts.points(runs), charts.log_by_default(runs)[position]
    spec = charts.curve_chart(runs, charts.palette(runs), points, loss, position, is_log)
    return {**spec, "datasets": {**spec.get("datasets", {}), "points": points}}


def _specs(runs: Sequence[Run], sweeps: Sequence[dict[str, Spec]]) -> Iterator[tuple[str, Spec]]:
    """Yields each chart's file name, without suffix, and its spec with data."""
    # Only labels at the ends of curves tell them apart here: a picture has no list of runs.
    if len(charts.palette(runs)) <= charts.MAX_LABELS:
        for position in charts.POSITIONS:
            yield f"val-loss-against-{position}", curve(runs, "val", position)
    yield "bits-per-byte", charts.bits_chart(runs)
    if steps := staircase.ladder(runs):
        yield "what-each-idea-bought", steps
    for sweep in sweeps:
        for heading, spec in sweep.items():
            yield file_name(heading), spec


def file_name(heading: str) -> str:
    """Returns a heading up to its first punctuation, in letters and digits of any file system."""
    first = re.split("[:;,(]", heading)[0].lower()
    return re.sub("[^a-z0-9]+", "-", first).strip("-")[:MAX_NAME_LENGTH] or "chart"


def _clean(part: Any) -> Any:
    """Returns a spec without characters invalid in SVG and integers too large for vl_convert."""
    if isinstance(part, dict):
        return {_clean(key): _clean(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_clean(value) for value in part]
    if isinstance(part, str) and not part.isprintable():
        return sanitize(part)
    return float(part) if isinstance(part, int) and abs(part) > MAX_SAFE_INTEGER else part
