"""Console output of a run: a progress bar on a terminal, one plain line per log elsewhere."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from runtime.terminal import escape_controls, format_seconds
from tracking.sink import Model, Sink

# Metrics to show: (name, label before the number, format, unit after it). A narrow terminal drops
# the last ones.
SHOWN = (
    ("train/loss", "train loss ", ".4f", ""),
    ("val/loss", "val loss ", ".4f", ""),
    ("train/tokens_per_second", "", ",.0f", " tokens/s"),
    ("train/mfu", "MFU ", ".1%", ""),
)
SHOWN_AT_END = (
    ("val/loss", "val loss ", ".4f", ""),
    ("best/val/loss", "best ", ".4f", ""),
    ("val/bits_per_byte", "", ".4f", " bits per byte"),
    ("seconds", "", ",.1f", " s of training"),
)
# Columns of the bar, at least, and of the time left, with what separates them from the numbers.
BAR_WIDTH = 22
SAMPLE_LINES = 6
SAMPLE_WIDTH = 96


def open_console(num_steps: int, start: int, stream: TextIO) -> "PlainLines":
    """Returns a progress bar if `stream` is a terminal that can redraw a line, else plain lines."""
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return ProgressBar(num_steps, start, stream)
    return PlainLines(num_steps, stream)


def sample_lines(step: int, prompt: str, text: str) -> list[str]:
    """Returns a heading and the first lines of a sample, escaped and cut to `SAMPLE_WIDTH`."""
    lines = (prompt + text).strip("\n").split("\n")
    shown = [f"  | {escape_controls(line)[:SAMPLE_WIDTH]}" for line in lines[:SAMPLE_LINES]]
    if len(lines) > SAMPLE_LINES:
        shown.append(f"  | ... {len(lines) - SAMPLE_LINES} more lines")
    return [f"sample at step {step}:", *shown]


def _numbers(shown: Sequence[tuple], metrics: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{label}{metrics[name]:{form}}{unit}"
        for name, label, form, unit in shown
        if metrics.get(name) is not None
    )


class PlainLines(Sink):
    """One line per log, flushed at once: for files, pipes and terminals that can't redraw."""

    def __init__(self, num_steps: int, stream: TextIO) -> None:
        self._num_steps = num_steps
        self._stream = stream
        self._first: tuple[int, float] | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the metrics in `SHOWN` and the time left."""
        parts = [f"step {step}/{self._num_steps}", _numbers(SHOWN, metrics), self._left(step)]
        self._print("  ".join(part for part in parts if part))

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Shows the first lines of a sample."""
        self._print(*sample_lines(step, prompt, text))

    def note(self, message: str) -> None:
        """Shows a message."""
        self._print(escape_controls(message))

    def finish(self, summary: Mapping[str, Any], exit_code: int, model: Model | None) -> None:
        """Shows the status and the metrics in `SHOWN_AT_END`."""
        line = f"{summary.get('status', 'ended')}: {_numbers(SHOWN_AT_END, summary)}"
        self._print(line.rstrip(": "))

    def _left(self, step: int) -> str:
        """Returns the time left at the pace since the first log; compilation began before it."""
        now = time.monotonic()
        self._first = self._first or (step, now)
        first_step, first_time = self._first
        if step in (first_step, self._num_steps):
            return ""
        seconds = (now - first_time) / (step - first_step) * (self._num_steps - step)
        return f"{format_seconds(seconds)} left"

    def _print(self, *lines: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        for line in lines:
            print(line.encode(encoding, "backslashreplace").decode(encoding), file=self._stream)
        self._stream.flush()


class ProgressBar(PlainLines):
    """A bar at the bottom of a terminal; samples and notes scroll above it."""

    def __init__(self, num_steps: int, start: int, stream: TextIO) -> None:
        # Imported here because a run without a terminal does not need it.
        from rich import console, progress

        super().__init__(num_steps, stream)
        self._shown: dict[str, float] = {}
        self._progress = progress.Progress(
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.TimeRemainingColumn(),
            console=console.Console(file=stream),
            expand=True,
            # Enough for a clock: each redraw takes CPU time from the training.
            refresh_per_second=2,
        )
        self._task = self._progress.add_task("", total=num_steps, completed=start)
        self._progress.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Moves the bar to `step`; a metric that is not in `metrics` keeps its last value."""
        self._shown.update(metrics)
        room = self._progress.console.width - BAR_WIDTH - len(f"{self._num_steps}") * 2
        shown = list(SHOWN)
        while len(description := _numbers(shown, self._shown)) > room and len(shown) > 1:
            shown.pop()
        self._progress.update(self._task, completed=step, description=description)

    def finish(self, summary: Mapping[str, Any], exit_code: int, model: Model | None) -> None:
        """Stops the bar, then shows the summary."""
        self._progress.stop()
        super().finish(summary, exit_code, model)

    def _print(self, *lines: str) -> None:
        for line in lines:
            self._progress.console.print(line, markup=False, highlight=False, emoji=False)
