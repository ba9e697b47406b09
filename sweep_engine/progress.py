"""Progress of one run, read from its folder."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any, Self

import run_folder
from runtime.errors import UserError


class Progress:
    """Steps of a run and the finite values of its metric, oldest first.

    `num_steps` is 0 until the run has written its config; `started` is in time.monotonic's seconds.

    A file that can't be read is taken as not written yet: a program of a user's own may be in the
    middle of writing it, and after a power cut the run itself mends it when it resumes. No run's
    file may end the sweep.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self._folder, self._metric = folder, metric
        self._size = -1
        self.started = time.monotonic()
        self.step = self.num_steps = 0
        self.values: list[float] = []

    @property
    def value(self) -> float | None:
        """Returns the newest value of the metric; None if there is none."""
        return self.values[-1] if self.values else None

    def read(self) -> Self:
        """Reads what the run has written since the last call."""
        if not self.num_steps:
            self.num_steps = self._read_num_steps()
        metrics = self._folder / run_folder.METRICS
        try:
            size = metrics.stat().st_size
        except OSError:  # Not written yet.
            size = -1
        if size != self._size:
            self._size = size
            lines = _read_lines(metrics)
            values: list[Any] = [line.get(self._metric) for line in lines]
            self.values = [float(value) for value in values if _is_finite(value)]
            self.step = next(
                (line["step"] for line in reversed(lines) if type(line.get("step")) is int), 0
            )
        return self

    def _read_num_steps(self) -> int:
        try:
            config = run_folder.read_object(self._folder / run_folder.CONFIG)
        except UserError:  # Not written yet, or by half.
            return 0
        match config:
            case {"train": {"num_steps": int(num_steps)}}:
                return num_steps
        return 0


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a record, up to a line that can't be read."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError, RecursionError):
        lines.extend(line for line in run_folder.read_lines(path) if isinstance(line, dict))
    return lines


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
