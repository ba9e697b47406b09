"""Parts of a check, one after another, each a process with a time limit and a row of its own."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import commands
from benchmarks.gpu_parts import finding

Row = dict[str, Any]

# A part with a shorter time limit is skipped.
MIN_SECONDS = 3.0
LOG_LINES = 20


class Part(NamedTuple):
    """One process of a check. Its last argument is the file for its figures."""

    name: str
    asks: str
    seconds: float  # Its own; it also gets the time that earlier parts did not use.
    command: Sequence[str]
    environment: Mapping[str, str]
    must_pass: bool  # If False, a timeout is not a failure.


def run(parts: Sequence[Part], seconds: float) -> Iterator[Row]:
    """Runs the parts within `seconds` and yields each one's row as it ends."""
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        for place, part in enumerate(parts):
            later = sum(other.seconds for other in parts[place + 1 :])
            limit = time_limit(until - time.monotonic(), part.seconds, later)
            if limit < MIN_SECONDS:
                yield make_row(part, seconds=0.0, error="skipped: the total time ran out")
            else:
                yield run_part(part, limit, Path(folder))


def time_limit(left: float, own: float, later: float) -> float:
    """Returns a part's time limit: its own seconds, or all that later parts do not need."""
    return min(left, max(own, left - later))


def run_part(part: Part, limit: float, folder: Path) -> Row:
    """Runs a part for at most `limit` seconds and returns its row."""
    log, file = folder / f"{part.name}.log", folder / f"{part.name}.json"
    ended = commands.run(
        [*part.command, str(file)], seconds=limit, log=log, environment=part.environment
    )
    found = finding.read(file)
    figures = found.figures if found else {}
    if ended.code is None:
        error = f"stopped at its limit of {limit:.0f} s"
    elif ended.code:
        error = f"ended with code {ended.code}: {commands.error_line(log)}"
    elif found is None:
        error = "ended with no result"
    else:
        return make_row(part, seconds=ended.seconds, passed=found.passed, figures=figures)
    return make_row(
        part,
        seconds=ended.seconds,
        passed=None if ended.code is None and not part.must_pass else False,
        figures=figures,
        error=error,
        output=commands.tail(log, LOG_LINES),
    )


def make_row(part: Part, **facts: Any) -> Row:
    """Returns a row; `passed` defaults to that of a part that did not run."""
    row = {"name": part.name, "asks": part.asks, "measured": True, "figures": {}}
    return {**row, "passed": False if part.must_pass else None, **facts}


def line(row: Row, width: int = 0) -> str:
    """Returns a row as one line: verdict, name, seconds, and the error or the summary."""
    verdict = {True: "pass", False: "FAIL", None: "-"}[row["passed"]]
    summary = row.get("error") or row["figures"].get("summary", "")
    return f"{verdict:4}  {row['name']:{width}}  {row['seconds']:6.1f} s  {summary}".rstrip()


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as aligned lines."""
    width = min(max((len(row["name"]) for row in rows), default=0), 30)
    return "\n".join(line(row, width) for row in rows)
