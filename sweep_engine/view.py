"""View of a running sweep: a live table on a terminal, a line for each event elsewhere."""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.terminal import escape_controls, format_seconds
from sweep_engine.journal import FINISHED, OUTCOMES, SweepRun
from sweep_engine.progress import Progress
from sweep_engine.sweep_file import Metric

if TYPE_CHECKING:
    from rich.table import Table

# Ended runs that the table shows besides the best.
RECENT = 6


@dataclass
class Overview:
    """State of a sweep. `durations` has the seconds of the runs that this process finished."""

    runs: Sequence[SweepRun]
    running: Mapping[str, Progress]
    metric: Metric
    total: int
    num_workers: int
    durations: Sequence[float]

    def num_ended(self) -> int:
        """Returns the number of runs that have ended."""
        return sum(bool(run.outcome) for run in self.runs)

    def seconds_left(self) -> float | None:
        """Returns the seconds left at the mean duration so far; None if none is known."""
        if not self.durations:
            return None
        mean = sum(self.durations) / len(self.durations)
        done = sum(run.step / run.num_steps for run in self.running.values() if run.num_steps)
        return mean * max(self.total - self.num_ended() - done, 0) / self.num_workers

    def headline(self) -> str:
        """Returns the state in one line."""
        counts = Counter(run.outcome for run in self.runs)
        parts = [f"{self.num_ended()} of {self.total} runs have ended"]
        parts += [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES[1:] if counts[outcome]]
        if best := best_of(self.runs, self.metric):
            parts.append(f"best {self.metric.name} {format_value(best.value)} by {best.name}")
        if self.num_ended() < self.total and (left := self.seconds_left()) is not None:
            parts.append(f"{format_seconds(left)} left")
        return ", ".join(parts)


def best_of(runs: Sequence[SweepRun], metric: Metric) -> SweepRun | None:
    """Returns the finished run with the best value; None if no run has finished."""
    finished = (run for run in runs if run.outcome == FINISHED)
    return min(finished, key=lambda run: metric.cost(run.value), default=None)


def format_value(value: float | None) -> str:
    """Returns a value of the metric with four decimals, or "" for None."""
    return "" if value is None else f"{value:.4f}"


def open_view() -> "Lines | LiveTable":
    """Returns the view that standard output can show."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveTable()
    return Lines()


class Lines:
    """One line for each event: for pipes, files and terminals that can't move the cursor."""

    def __init__(self) -> None:
        self._num_ended = 0

    def event(self, text: str) -> None:
        """Prints an event."""
        print(escape_controls(text), flush=True)

    def show(self, overview: Overview) -> None:
        """Prints the headline when more runs have ended."""
        if overview.num_ended() > self._num_ended:
            self._num_ended = overview.num_ended()
            self.event(overview.headline())

    def close(self) -> None:
        """Does nothing: lines need no cleaning up."""


class LiveTable:
    """Table at the bottom of a terminal, with events scrolling by above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # A name may have brackets or colons, which rich would take for markup.
        console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def event(self, text: str) -> None:
        """Prints an event above the table."""
        self._live.console.print(escape_controls(text))

    def show(self, overview: Overview) -> None:
        """Draws the table anew."""
        self._live.update(table(overview), refresh=True)

    def close(self) -> None:
        """Leaves the table as it is and frees the terminal."""
        self._live.stop()


def table(overview: Overview) -> "Table":
    """Returns the running runs, the best one and the last to end as a table."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=overview.headline())
    for column in ("run", "state", "progress", overview.metric.name, "time"):
        made.add_column(column, no_wrap=column != "run")
    best = best_of(overview.runs, overview.metric)
    recent = [run for run in overview.runs if run.outcome][-RECENT:]
    for run in overview.runs:
        if run is best or run in recent:
            state = "best" if run is best else run.outcome
            made.add_row(run.name, state, "", format_value(run.value), "")
    for name, progress in overview.running.items():
        made.add_row(
            name,
            "running",
            f"{progress.step}/{progress.num_steps}" if progress.num_steps else "starting",
            format_value(progress.value),
            format_seconds(time.monotonic() - progress.started),
        )
    return made
