"""Experiment tracking: `open_tracker` returns the `Tracker` that the training loop logs to.

A tracker passes everything to its sinks, which share one interface, sink.py:

    json_lines.py      the record: files in the run folder, the source of every comparison
    console.py         a progress bar on a terminal, plain lines elsewhere
    wandb_run.py       Weights & Biases, a mirror of the record under the same metric names
    wandb_process.py   the separate process that runs the W&B client
    wandb_settings.py  where that mirror goes and what it is called, from flags and variables
    tensorboard.py     TensorBoard's event files, if they are asked for

Only a failing record stops a run: what is not on disk did not happen. The tracker drops any other
sink that fails, with one note. Nothing here waits for the network, a terminal or another process,
except `finish`, for a bounded time.
"""

from runtime import process

process.require_packages()


import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from runtime.errors import UserError
from tracking import wandb_settings, wandb_variables
from tracking.console import PlainLines, open_console
from tracking.json_lines import JsonLines
from tracking.sink import Model, Sink
from tracking.wandb_run import WandbRun

SINKS = ("wandb", "tensorboard")


class NoRecord(Sink):
    """Record of a process whose run another one writes."""

    def sync(self) -> None:
        """Flushes nothing."""


class Tracker:
    """Passes what a run measures to a record and to other sinks.

    `log`, `log_sample` and `sync` raise OSError if the record can't be written.
    """

    def __init__(self, record: JsonLines | NoRecord, console: Sink) -> None:
        self._record = record
        self._console = console
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

    def alert(self, title: str, text: str) -> None:
        """Tells whoever watches the run from afar that it went wrong."""
        self._tell_others("alert", title, text)

    def sync(self) -> None:
        """Flushes the record to the disk."""
        self._record.sync()

    def note(self, message: str) -> None:
        """Shows the user a message that is neither a metric nor a sample."""
        self._tell_others("note", message)

    def finish(
        self, summary: Mapping[str, Any], exit_code: int = 0, model: Model | None = None
    ) -> bool:
        """Writes the summary, closes all sinks, never raises; returns True if the record has it.

        `model` is the checkpoint to keep where the run is tracked, if any.
        """
        written = True
        try:
            self._record.finish(summary, exit_code, model)
        except Exception as error:
            written = False
            self.note(f"The summary was not written: {error}")
        # The console last: the other sinks show their notes through it.
        self._others.sort(key=lambda sink: sink is self._console)
        self._tell_others("finish", summary, exit_code, model)
        return written

    def _tell_others(self, method: str, *arguments: Any) -> None:
        for sink in list(self._others):
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:
                # Telling it that it failed may have dropped it already.
                if sink in self._others:
                    self._others.remove(sink)
                self.note(f"{type(sink).__name__} failed, the run continues without it: {error}")


def choose_sinks(configured: Sequence[str]) -> set[str]:
    """Returns the names in a config's `tracking.sinks`. Raises UserError for one not in `SINKS`."""
    for name in sorted(set(configured).difference(SINKS)):
        raise UserError(f"--config.tracking.sinks={name!r}: expected some of {', '.join(SINKS)}")
    return set(configured)


def silent_tracker() -> Tracker:
    """Returns a tracker that shows and writes nothing."""
    return Tracker(NoRecord(), Sink())


def open_tracker(
    config: ConfigDict, workdir: Path, *, num_params: int, resumed_from: int | None = None
) -> Tracker:
    """Returns the tracker of one run, its record in the existing folder `workdir`.

    `resumed_from` is the step of the restored checkpoint: later lines of the record are set aside,
    and the same W&B run continues. Raises UserError for an unknown sink.
    """
    sinks = choose_sinks(config.tracking.sinks)
    record = JsonLines(workdir, resumed_from)
    console = open_console(config.train.num_steps, resumed_from or 0, sys.stdout)
    tracker = Tracker(record, console)
    earlier = record.earlier_lines() if resumed_from is not None else []

    def add(name: str, open_sinks: Callable[[], Sequence[Sink]]) -> None:
        try:
            for sink in open_sinks():
                tracker.add(sink)
        except Exception as error:
            tracker.note(f"{name} did not start, the run continues without it: {error}")

    def open_wandb() -> Sequence[Sink]:
        if ignored := wandb_variables.ignored(os.environ):
            reasons = ", ".join(f"{name} ({reason})" for name, reason in ignored.items())
            tracker.note(f"without effect here: {reasons}")
        arguments = wandb_settings.init_arguments(config, workdir, num_params)
        run = WandbRun(workdir, arguments, earlier, tracker.note)
        # The run last: it closes the way to W&B when it finishes.
        return PlainLines(config.train.num_steps, run.console), run

    def open_tensorboard() -> Sequence[Sink]:
        # Imported here because a run without it does not need protocol buffers.
        from tracking.tensorboard import TensorBoard

        return (TensorBoard(workdir, config, resumed_from, earlier),)

    if wandb_settings.is_on(config.tracking):
        add("W&B", open_wandb)
    if "tensorboard" in sinks:
        add("TensorBoard", open_tensorboard)
    return tracker
