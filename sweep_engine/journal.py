"""What a sweep has decided and what came of it: `runs.jsonl` in its folder, a line an event.

    {"event": "opened", "sweep_id": ..., "seed": ..., "preset": ...}       first, once
    {"event": "proposed", "run": ..., "run_id": ..., "parameters": ..., "point": ...}
    {"event": "started", "run": ...}
    {"event": "failing", "run": ..., "reason": ...}                        to be tried again
    {"event": "stopping", "run": ...}                                      early termination
    {"event": "ended", "run": ..., "outcome": ..., "value": ..., "reason": ...}

A line is on the disk before it is acted on, so whenever the sweep is killed, these lines and the
run folders say all that is needed to go on.
"""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import run_folder
from runtime.errors import UserError
from tracking import sweep

EVENTS = "runs.jsonl"
FILE = "sweep.yaml"
# How a run can end. "diverged" is a finding about its parameters, not a failure.
FINISHED, STOPPED, DIVERGED, FAILED = OUTCOMES = ("finished", "stopped", "diverged", "failed")


@dataclass
class SweepRun:
    """One run of a sweep. `value` is the metric it ended with; None: it has none."""

    number: int
    folder: str
    run_id: str
    parameters: dict[str, Any]
    point: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    starts: int = 0
    is_stopping: bool = False
    outcome: str = ""
    value: float | None = None
    reason: str = ""


class Journal:
    """The folder of one sweep, open for this process alone."""

    def __init__(self, folder: Path, text: str, seed: int, preset: str, sweep_id: str) -> None:
        """Opens the folder of a new sweep, or of one to go on with.

        Raises UserError if another process works on it, or if it holds another sweep.
        """
        self.folder = folder
        self.runs: list[SweepRun] = []
        self._lock = self._take_lock()
        _drop_unfinished_line(folder / EVENTS)
        events = list(run_folder.read_lines(folder / EVENTS))
        opening = {"event": "opened", "sweep_id": sweep_id, "seed": seed, "preset": preset}
        if events:
            self._check_same(opening, events[0], text)
            self.sweep_id = events[0]["sweep_id"]
            for event in events[1:]:
                self._take_in(event)
        else:
            self.sweep_id = sweep_id
            (folder / FILE).write_text(text, encoding="utf-8")
            self._write(opening)

    def propose(self, run_id: str, parameters: dict[str, Any], point: dict[str, float]) -> SweepRun:
        """A new run, decided on and not yet started."""
        number = len(self.runs) + 1
        folder = f"{number:03}-{_file_name(sweep.name_of(parameters)) or run_id}"
        self._add(
            "proposed", run=folder, run_id=run_id, parameters=parameters, point=point, number=number
        )
        return self.runs[-1]

    def start(self, run: SweepRun) -> None:
        """Says that a process is about to work on `run`."""
        self._add("started", run=run.folder)

    def fail(self, run: SweepRun, reason: str) -> None:
        """Says that a process failed and `run` is to be tried again."""
        self._add("failing", run=run.folder, reason=reason)

    def stop(self, run: SweepRun) -> None:
        """Says that `run` is to be stopped early."""
        self._add("stopping", run=run.folder)

    def end(self, run: SweepRun, outcome: str, value: float | None, reason: str = "") -> None:
        """Says how `run` ended; it will not be started again."""
        self._add("ended", run=run.folder, outcome=outcome, value=value, reason=reason)

    def _add(self, event: str, **rest: Any) -> None:
        line = {"event": event, **rest}
        self._write(line)
        self._take_in(line)

    def _write(self, line: dict) -> None:
        path = self.folder / EVENTS
        run_folder.append_line(path, line)
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    def _take_in(self, event: dict) -> None:
        if event["event"] == "proposed":
            keys = ("number", "run_id", "parameters", "point")
            self.runs.append(SweepRun(folder=event["run"], **{key: event[key] for key in keys}))
            return
        run = next(run for run in reversed(self.runs) if run.folder == event["run"])
        match event["event"]:
            case "started":
                run.starts += 1
            case "failing":
                run.failures += 1
            case "stopping":
                run.is_stopping = True
            case "ended":
                run.outcome, run.value = event["outcome"], event["value"]
                run.reason = event["reason"]

    def _take_lock(self) -> Any:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir={self.folder} can't be written: {error}") from None
        lock = run_folder.lock(self.folder, "runs this sweep")
        inside = [path for path in self.folder.iterdir() if path.name != run_folder.LOCK]
        if inside and not (self.folder / EVENTS).exists() and inside != [self.folder / FILE]:
            raise UserError(
                f"--workdir={self.folder} holds files but no sweep: name a new or an empty folder"
            )
        return lock

    def _check_same(self, opening: dict, before: dict, text: str) -> None:
        """Raises UserError if the folder's sweep is not the one that is asked for."""
        import yaml

        kept = (self.folder / FILE).read_text(encoding="utf-8")
        if yaml.safe_load(kept) != yaml.safe_load(text):
            raise UserError(
                f"--workdir={self.folder} holds another sweep, {self.folder / FILE}: name another "
                "folder, or give that file"
            )
        for key in ("seed", "preset"):
            if before[key] != opening[key]:
                raise UserError(
                    f"--workdir={self.folder} holds this sweep with --{key}={before[key]}: go on "
                    "with that, or name another folder"
                )


def _drop_unfinished_line(path: Path) -> None:
    """Cuts off what a kill or a full disk left of a line, so that the next starts on its own."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def _file_name(name: str) -> str:
    """A run's name as part of a path: `gpt2,seed=1`."""
    return re.sub(r"[^\w.=,+-]", "_", name.replace(" ", ","))[:80]


def write_parameters(path: Path, parameters: dict[str, Any]) -> None:
    """The file that WANDB_SWEEP_PARAM_PATH names, as W&B's agent writes it."""
    path.parent.mkdir(exist_ok=True)
    # JSON is YAML.
    entries = {"wandb_version": 1, **{name: {"value": value} for name, value in parameters.items()}}
    path.write_text(json.dumps(entries), encoding="utf-8")
