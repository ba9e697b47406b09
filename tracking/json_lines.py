"""The record of a run: metrics.jsonl, samples.jsonl and summary.json in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import run_folder
from runtime.files import fsync
from tracking.sink import Model, Sink


class JsonLines(Sink):
    """Sink that writes each line before the call returns: a crash loses nothing logged."""

    def __init__(self, workdir: Path, resumed_from: int | None) -> None:
        self._workdir = workdir
        self._metrics = workdir / run_folder.METRICS
        self._samples = workdir / run_folder.SAMPLES
        # A run that was stopped before its first checkpoint left lines, too: it starts anew.
        last_step = -1 if resumed_from is None else resumed_from
        run_folder.set_aside_after(self._metrics, last_step)
        run_folder.set_aside_after(self._samples, last_step)
        # A summary from before the run was resumed is out of date.
        (workdir / run_folder.SUMMARY).unlink(missing_ok=True)

    def earlier_lines(self) -> list[dict]:
        """Returns the lines kept from before the run was resumed, sorted by step."""
        lines = [*run_folder.read_lines(self._metrics), *run_folder.read_lines(self._samples)]
        return sorted(lines, key=lambda line: line["step"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a line to metrics.jsonl."""
        run_folder.append_line(self._metrics, {"step": step, **metrics})

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Appends a line to samples.jsonl."""
        run_folder.append_line(self._samples, {"step": step, "prompt": prompt, "text": text})

    def sync(self) -> None:
        """Flushes all lines to the disk, where they survive a power failure."""
        for path in (self._metrics, self._samples, self._workdir):
            if path.exists():
                fsync(path)

    def finish(self, summary: Mapping[str, Any], exit_code: int, model: Model | None) -> None:
        """Flushes the lines, then writes summary.json."""
        self.sync()
        run_folder.write_json(self._workdir / run_folder.SUMMARY, dict(summary))
