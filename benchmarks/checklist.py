"""Parts of a check in turn, each a process with a time limit, and a row for each."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import bounded
from benchmarks.gpu_parts import finding

Row = dict[str, Any]

# A part that would have fewer seconds is not started.
FEWEST_SECONDS = 3.0
LOG_LINES = 20


class Part(NamedTuple):
    """One process of a check. It is given a file for its figures as the last argument."""

    name: str
    asks: str
    seconds: float  # Its own; it gets what the parts before it left, too.
    words: Sequence[str]
    environment: Mapping[str, str]
    must_pass: bool  # Even in time: one that is only recorded may be cut short.


def run(parts: Sequence[Part], seconds: float) -> Iterator[Row]:
    """Runs the parts within `seconds` and yields the row of each as it ends."""
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        for place, part in enumerate(parts):
            later = sum(other.seconds for other in parts[place + 1 :])
            limit = allowance(until - time.monotonic(), part.seconds, later)
            if limit < FEWEST_SECONDS:
                yield row_of(part, seconds=0.0, error="skipped: the total time ran out")
            else:
                yield row_after(part, limit, Path(folder))


def allowance(left: float, own: float, later: float) -> float:
    """Returns the limit of a part: its own seconds, or all that later parts do not need."""
    return min(left, max(own, left - later))


def row_after(part: Part, limit: float, folder: Path) -> Row:
    """Returns the row of a part that has ended, or that its limit has ended."""
    log, file = folder / f"{part.name}.log", folder / f"{part.name}.json"
    ended = bounded.run(
        [*part.words, str(file)], seconds=limit, log=log, environment=part.environment
    )
    found = finding.read(file)
    figures = found.figures if found else {}
    output = bounded.tail(log, LOG_LINES)
    if ended.code is None:
        error = f"stopped at its limit of {limit:.0f} s"
    elif ended.code:
        error = f"ended with code {ended.code}: {bounded.error_line(log)}"
    elif found is None:
        error = "ended with no result"
    else:
        return row_of(part, seconds=ended.seconds, passed=found.passed, figures=figures)
    return row_of(
        part,
        seconds=ended.seconds,
        # Out of time is no defect of what is only recorded; anything else is.
        passed=None if ended.code is None and not part.must_pass else False,
        figures=figures,
        error=error,
        output=output,
    )


def row_of(part: Part, **facts: Any) -> Row:
    """Returns a row; without `passed` among its facts, the part did not run."""
    row = {"name": part.name, "asks": part.asks, "measured": True, "figures": {}}
    return {**row, "passed": False if part.must_pass else None, **facts}


def line(row: Row, width: int = 0) -> str:
    """Returns a row as a line of text: verdict, name, seconds, and the error or its summary."""
    verdict = {True: "pass", False: "FAIL", None: "-"}[row["passed"]]
    summary = row.get("error") or row["figures"].get("summary", "")
    return f"{verdict:4}  {row['name']:{width}}  {row['seconds']:6.1f} s  {summary}".rstrip()


def table(rows: Sequence[Row]) -> str:
    """Returns the lines of rows, one below the other."""
    width = min(max((len(row["name"]) for row in rows), default=0), 30)
    return "\n".join(line(row, width) for row in rows)
