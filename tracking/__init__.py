"""Where a run's numbers and texts go: `open_tracker` gives the training loop a `Tracker`.

A tracker hands everything to its sinks, which share one small interface:

    json_lines.py      the record: files in the run folder; every comparison is made from them
    console.py         for the person: a progress bar on a terminal, plain lines elsewhere
    wandb_run.py       Weights & Biases, a mirror of the record under the same names
    wandb_process.py   the process of its own that W&B runs in

Only the record may stop a run: what is not on disk did not happen. Any other sink that fails is
dropped with one note. Nothing here waits for the network, for a terminal or for another process,
except `finish`, and that for a bounded time. Each sink is imported when it is opened, so reading
a run folder costs no more than `run_folder/`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict


class Sink(Protocol):
    """One place where a run's numbers and texts go."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def log_sample(self, step: int, prompt: str, text: str) -> None: ...

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None: ...


class Record(Sink, Protocol):
    """The sink that every comparison is made from."""

    def sync(self) -> None: ...


class Tracker:
    """Hands what a run measures to a record, which may fail, and to sinks that may not."""

    def __init__(self, record: Record, console: Sink | None = None) -> None:
        self._record = record
        self._console = console
        self._others = [console] if console else []

    def add(self, sink: Sink) -> None:
        """Hands everything from now on to `sink` too."""
        self._others.append(sink)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps what was measured after `step` updates. Called at most once for a step.

        Raises OSError if the record can't be written.
        """
        self._record.log(step, metrics)
        self._tell_others("log", step, metrics)

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Keeps a text that the model of `step` wrote to go on from `prompt`.

        Raises OSError if the record can't be written.
        """
        self._record.log_sample(step, prompt, text)
        self._tell_others("log_sample", step, prompt, text)

    def sync(self) -> None:
        """Returns when the record is on the disk. Raises OSError if it can't be written."""
        self._record.sync()

    def note(self, message: str) -> None:
        """Tells the person one thing that is neither a metric nor a sample."""
        try:
            if self._console:
                self._console.note(message)
        except Exception:
            self._drop(self._console)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> bool:
        """Keeps the summary and closes every sink. Never raises; takes seconds at most.

        Returns whether the record took the summary.
        """
        written = True
        try:
            self._record.finish(summary, exit_code)
        except Exception as error:
            written = False
            self.note(f"The summary was not written: {error}")
        # The console last: the others may still have something to tell through it.
        self._others.sort(key=lambda sink: sink is self._console)
        self._tell_others("finish", summary, exit_code)
        return written

    def _tell_others(self, method: str, *arguments: Any) -> None:
        for sink in list(self._others):
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:
                self._drop(sink)
                self.note(f"{type(sink).__name__} failed and is left out from here on: {error}")

    def _drop(self, sink: Sink) -> None:
        if sink in self._others:
            self._others.remove(sink)
        if sink is self._console:
            # Nowhere is left to say so: standard output is closed, or its terminal is gone.
            self._console = None


def open_tracker(
    config: ConfigDict, workdir: Path, *, num_params: int, resumed_from: int | None = None
) -> Tracker:
    """The tracker of one run, its record in the existing folder `workdir`.

    `resumed_from` is the step of the restored checkpoint: what the record holds past it is set
    aside, and W&B goes on in the same run. Raises UserError for a W&B mode that does not exist.
    """
    from tracking import console, json_lines, wandb_run

    mode = wandb_run.choose_mode(config.tracking.wandb_mode)
    record = json_lines.JsonLines(workdir, resumed_from)
    view = console.open_console(config.train.num_steps, resumed_from or 0, sys.stdout)
    tracker = Tracker(record, view)
    if mode != "disabled":
        try:
            earlier = record.earlier_lines() if resumed_from is not None else []
            tracker.add(
                wandb_run.WandbRun(config, workdir, num_params, mode, earlier, tracker.note)
            )
        except Exception as error:
            tracker.note(f"W&B could not be started; going on without it: {error}")
    return tracker
