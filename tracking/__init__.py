"""Experiment tracking: `open_tracker` returns the `Tracker` that the training loop logs to.

A tracker passes everything to its sinks, which share one interface:

    json_lines.py      the record: files in the run folder, the source of every comparison
    console.py         a progress bar on a terminal, plain lines elsewhere
    wandb_run.py       Weights & Biases, a mirror of the record under the same metric names
    wandb_process.py   the separate process that runs the W&B client

Only a failing record stops a run: what is not on disk did not happen. The tracker drops any other
sink that fails, with one note. Nothing here waits for the network, a terminal or another process,
except `finish`, for a bounded time.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from tracking.console import PlainLines, open_console
from tracking.json_lines import JsonLines
from tracking.wandb_run import WandbRun, choose_mode, init_arguments


class Sink(Protocol):
    """Destination of a run's metrics and samples."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics measured after `step` updates."""

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Writes a generated `text`, the continuation of `prompt`."""

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """Writes the summary and closes the sink."""


class Tracker:
    """Passes what a run measures to a record and to other sinks.

    `log`, `log_sample` and `sync` raise OSError if the record can't be written.
    """

    def __init__(self, record: JsonLines, console: PlainLines) -> None:
        self._record = record
        self._console: PlainLines | None = console
        self._others: list[Sink] = [console]

    def add(self, sink: Sink) -> None:
        """Adds a sink for everything from now on."""
        self._others.append(sink)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics measured after `step` updates. Called at most once per step."""
        self._record.log(step, metrics)
        self._tell_others("log", step, metrics)

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Logs the `text` that the model of `step` generated after `prompt`."""
        self._record.log_sample(step, prompt, text)
        self._tell_others("log_sample", step, prompt, text)

    def sync(self) -> None:
        """Flushes the record to the disk."""
        self._record.sync()

    def note(self, message: str) -> None:
        """Shows the user a message that is neither a metric nor a sample."""
        if self._console:
            try:
                self._console.note(message)
            except Exception:
                self._drop(self._console)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> bool:
        """Writes the summary, closes all sinks, never raises; returns True if the record has it."""
        written = True
        try:
            self._record.finish(summary, exit_code)
        except Exception as error:
            written = False
            self.note(f"The summary was not written: {error}")
        # The console last: the other sinks show their notes through it.
        self._others.sort(key=lambda sink: sink is self._console)
        self._tell_others("finish", summary, exit_code)
        return written

    def _tell_others(self, method: str, *arguments: Any) -> None:
        for sink in list(self._others):
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:
                self._drop(sink)
                self.note(f"{type(sink).__name__} failed, the run continues without it: {error}")

    def _drop(self, sink: Sink) -> None:
        if sink in self._others:
            self._others.remove(sink)
        if sink is self._console:
            self._console = None  # Standard output is closed: notes have no other destination.


def open_tracker(
    config: ConfigDict, workdir: Path, *, num_params: int, resumed_from: int | None = None
) -> Tracker:
    """Returns the tracker of one run, its record in the existing folder `workdir`.

    `resumed_from` is the step of the restored checkpoint: later lines of the record are set aside,
    and the same W&B run continues. Raises UserError for an unknown W&B mode.
    """
    mode = choose_mode(config.tracking.wandb_mode)
    record = JsonLines(workdir, resumed_from)
    console = open_console(config.train.num_steps, resumed_from or 0, sys.stdout)
    tracker = Tracker(record, console)
    if mode != "disabled":
        try:
            earlier = record.earlier_lines() if resumed_from is not None else []
            arguments = init_arguments(config, workdir, num_params, mode)
            tracker.add(WandbRun(workdir, arguments, earlier, tracker.note))
        except Exception as error:
            tracker.note(f"W&B did not start, the run continues without it: {error}")
    return tracker
