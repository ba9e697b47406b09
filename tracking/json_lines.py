"""The record of a run: metrics.jsonl, samples.jsonl and summary.json in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import run_folder
from runtime.files import sync


class JsonLines:
    """Writes each call's line before it returns, so a run that dies has lost nothing logged."""

    def __init__(self, workdir: Path, resumed_from: int | None) -> None:
        self._workdir = workdir
        self._metrics = workdir / run_folder.METRICS
        self._samples = workdir / run_folder.SAMPLES
        if resumed_from is not None:
            run_folder.set_aside_after(self._metrics, resumed_from)
            run_folder.set_aside_after(self._samples, resumed_from)
        # If there is one, it sums up where the run stopped; now the run goes on.
        (workdir / run_folder.SUMMARY).unlink(missing_ok=True)

    def earlier_lines(self) -> list[dict]:
        """The lines kept from before the run was resumed, in the order of their steps."""
        lines = [*run_folder.read_lines(self._metrics), *run_folder.read_lines(self._samples)]
        return sorted(lines, key=lambda line: line["step"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        run_folder.append_line(self._metrics, {"step": step, **metrics})

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        run_folder.append_line(self._samples, {"step": step, "prompt": prompt, "text": text})

    def sync(self) -> None:
        """Returns when all lines so far are on the disk, where they outlive a power cut."""
        for path in (self._metrics, self._samples, self._workdir):
            if path.exists():
                sync(path)

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        self.sync()
        run_folder.write_json(self._workdir / run_folder.SUMMARY, dict(summary))
