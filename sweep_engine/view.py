"""What a person sees of a sweep: a table that lives on a terminal, a line an event elsewhere."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.terminal import inert
from sweep_engine.journal import FINISHED, OUTCOMES, SweepRun
from sweep_engine.sweep_file import Metric

# Ended runs that the table keeps in sight, besides the best.
RECENT = 6


@dataclass
class Progress:
    """How far one running run is."""

    since: float
    steps: int = 0
    num_steps: int = 0
    value: float | None = None

    @property
    def share(self) -> float:
        """Of its steps, done."""
        return self.steps / self.num_steps if self.num_steps else 0.0


@dataclass
class Overview:
    """All that is known of a sweep at one moment. `total` is None while nobody knows it."""

    runs: Sequence[SweepRun]
    running: dict[str, Progress]
    metric: Metric
    total: int
    workers: int
    durations: Sequence[float]  # Seconds of the runs that ended under our eyes.

    def best(self) -> SweepRun | None:
        """The run that came furthest, of those that were not cut short."""
        return best_of(self.runs, self.metric)

    def ended(self) -> int:
        """How many runs have come to an end."""
        return sum(bool(run.outcome) for run in self.runs)

    def seconds_left(self) -> float | None:
        """At the pace so far; None before anything has ended."""
        if not self.durations:
            return None
        each = sum(self.durations) / len(self.durations)
        under_way = sum(1 - progress.share for progress in self.running.values())
        waiting = self.total - self.ended() - len(self.running)
        return each * max((waiting + under_way) / self.workers, 0)

    def headline(self) -> str:
        """Where the sweep stands, in a line."""
        count = {outcome: sum(run.outcome == outcome for run in self.runs) for outcome in OUTCOMES}
        parts = [f"{self.ended()} of {self.total} runs have ended"]
        parts += [f"{count[outcome]} {outcome}" for outcome in OUTCOMES[1:] if count[outcome]]
        if best := self.best():
            parts.append(f"best {self.metric.name} {best.value:.4f} by {best.folder}")
        if (left := self.seconds_left()) is not None and self.ended() < self.total:
            parts.append(f"{clock(left)} left")
        return ", ".join(parts)


def best_of(runs: Sequence[SweepRun], metric: Metric) -> SweepRun | None:
    """The finished run with the best value; None if there is none."""
    finished = [run for run in runs if run.outcome == FINISHED and run.value is not None]
    return min(finished, key=lambda run: metric.cost(run.value), default=None)


def clock(seconds: float) -> str:
    """A time span as 0:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def open_view() -> "Lines | LiveTable":
    """What suits standard output."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveTable()
    return Lines()


class Lines:
    """A line an event: for pipes, files and terminals that can't move about."""

    def event(self, text: str) -> None:
        print(inert(text), flush=True)

    def show(self, overview: Overview) -> None:
        pass

    def close(self) -> None:
        pass


class LiveTable:
    """A table that stays at the bottom of a terminal, events scrolling by above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(highlight=False), auto_refresh=False)
        self._live.start()

    def event(self, text: str) -> None:
        from rich.text import Text

        self._live.console.print(Text(inert(text)))

    def show(self, overview: Overview) -> None:
        self._live.update(table(overview), refresh=True)

    def close(self) -> None:
        self._live.stop()


def table(overview: Overview) -> Any:
    """The runs under way, the last to end and the best one, for rich to print."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=overview.headline())
    for column in ("run", "state", "progress", overview.metric.name, "time"):
        made.add_column(column, no_wrap=column != "run")
    best = overview.best()
    ended = [run for run in overview.runs if run.outcome]
    shown = {run.folder: run for run in [*([best] if best else []), *ended[-RECENT:]]}
    for run in sorted(shown.values(), key=lambda run: run.number):
        state = "best" if run is best else run.outcome
        made.add_row(Text(run.folder), state, "", number_text(run.value), "")
    for folder, progress in overview.running.items():
        made.add_row(
            Text(folder),
            "running",
            f"{progress.steps}/{progress.num_steps}" if progress.num_steps else "starting",
            number_text(progress.value),
            clock(time.monotonic() - progress.since),
        )
    return made


def number_text(value: float | None) -> str:
    """A metric for a table cell."""
    return "" if value is None else f"{value:.4f}"
