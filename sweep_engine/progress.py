"""Progress of one run, read from its folder."""

import math
import time
from pathlib import Path
from typing import Self

import run_folder


class Progress:
    """Steps of a run and the finite values of its metric, oldest first.

    `num_steps` is 0 until the run has written its config; `started` is in time.monotonic's seconds.
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
        config, metrics = self._folder / run_folder.CONFIG, self._folder / run_folder.METRICS
        if not self.num_steps and config.exists():
            self.num_steps = run_folder.read_json(config)["train"]["num_steps"]
        size = metrics.stat().st_size if metrics.exists() else -1
        if size != self._size:
            self._size = size
            lines = list(run_folder.read_lines(metrics))
            values = [line[self._metric] for line in lines if line.get(self._metric) is not None]
            self.values = [value for value in values if math.isfinite(value)]
            self.step = lines[-1]["step"] if lines else 0
        return self
