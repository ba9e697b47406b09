"""Journal of a sweep: its decisions and outcomes as `runs.jsonl`, one event a line.

    {"event": "opened", "sweep_id": ..., "seed": ..., "preset": ...}       first, once
    {"event": "proposed", "run": ..., "run_id": ..., "parameters": ..., "point": ...}
    {"event": "started", "run": ...}
    {"event": "failing", "run": ..., "reason": ...}                        to be retried
    {"event": "stopping", "run": ...}                                      early termination
    {"event": "ended", "run": ..., "outcome": ..., "value": ..., "reason": ...}

The journal flushes each line to the disk before the sweep acts on it, so a sweep that is killed at
any moment resumes from these lines and the run folders.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import run_folder
from runtime.errors import UserError
from runtime.files import fsync
from tracking import sweep

EVENTS = "runs.jsonl"
FILE = "sweep.yaml"
KEPT = ("seed", "preset")  # Flags that a sweep keeps when it resumes.
# Outcomes of a run. "diverged" is a finding about its parameters, not a failure.
FINISHED, STOPPED, DIVERGED, FAILED = OUTCOMES = ("finished", "stopped", "diverged", "failed")


@dataclass
class SweepRun:
    """One run of a sweep. `name` is its folder's; `value` its last value of the metric, if any."""

    number: int
    name: str
    run_id: str
    parameters: dict[str, Any]
    point: dict[str, float]
    failures: int = 0
    starts: int = 0
    is_stopping: bool = False
    outcome: str = ""
    value: float | None = None
    reason: str = ""


class Journal:
    """Folder of one sweep, locked for this process."""

    def __init__(self, folder: Path, text: str, seed: int, preset: str, sweep_id: str) -> None:
        """Opens a sweep's folder.

        Raises UserError if it is in use, holds another sweep, or is damaged.
        """
        self.folder, self.seed = folder, seed
        self.runs: list[SweepRun] = []
        self._lock = self._lock_folder()
        _drop_unfinished_line(folder / EVENTS)
        events = self._read_events()
        opening = {"event": "opened", "sweep_id": sweep_id, "seed": seed, "preset": preset}
        if not events:
            (folder / FILE).write_text(text, encoding="utf-8")
            self._write(opening)
            events = [opening]
        self._check_same(opening, events[0], text)
        self.sweep_id = events[0]["sweep_id"]
        for number, event in enumerate(events[1:], start=2):
            try:
                self._apply(event)
            except (LookupError, TypeError, StopIteration):
                raise self._damaged(number) from None

    def _read_events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        try:
            events.extend(run_folder.read_lines(self.folder / EVENTS))
        except (ValueError, RecursionError):
            raise self._damaged(len(events) + 1) from None
        if events and not (isinstance(events[0], dict) and {"sweep_id", *KEPT} <= events[0].keys()):
            raise self._damaged(1)
        return events

    def _damaged(self, number: int) -> UserError:
        return UserError(
            f"{self.folder / EVENTS}, line {number} can't be read: remove it and the lines after "
            "it, whose runs then resume, or name another folder with --workdir"
        )

    def find(self, name: str) -> SweepRun:
        """Returns the run of that name."""
        return next(run for run in reversed(self.runs) if run.name == name)

    def propose(self, run_id: str, parameters: dict[str, Any], point: dict[str, float]) -> SweepRun:
        """Adds a run, to be started later, and returns it."""
        number = len(self.runs) + 1
        # As part of a path: `gpt2,seed=1`.
        words = re.sub(r"[^\w.=,+-]", "_", sweep.run_name(parameters).replace(" ", ","))
        name = f"{number:03}-{words[:80] or run_id}"
        details = {"run_id": run_id, "parameters": parameters, "point": point, "number": number}
        self.record("proposed", name, **details)
        return self.runs[-1]

    def record(self, kind: str, name: str, **details: Any) -> None:
        """Writes an event about the run `name`, with the keys listed above, and applies it."""
        event = {"event": kind, "run": name, **details}
        self._write(event)
        self._apply(event)

    def _write(self, event: dict[str, Any]) -> None:
        run_folder.append_line(self.folder / EVENTS, event)
        fsync(self.folder / EVENTS)

    def _apply(self, event: dict[str, Any]) -> None:
        if event["event"] == "proposed":
            keys = ("number", "run", "run_id", "parameters", "point")
            self.runs.append(SweepRun(*(event[key] for key in keys)))
            return
        run = self.find(event["run"])
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

    def _lock_folder(self) -> IO[str]:
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

    def _check_same(self, opening: dict[str, Any], before: dict[str, Any], text: str) -> None:
        """Raises UserError if the folder holds another sweep."""
        import yaml

        try:
            kept = yaml.safe_load((self.folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            raise UserError(
                f"{self.folder / FILE} can't be read: copy the sweep's file there, or name another "
                "folder with --workdir"
            ) from None
        if kept != yaml.safe_load(text):
            raise UserError(
                f"--workdir={self.folder} holds another sweep, {self.folder / FILE}: name another "
                "folder, or give that file"
            )
        for key in KEPT:
            if before[key] != opening[key]:
                raise UserError(
                    f"--{key}={opening[key]}: --workdir={self.folder} holds this sweep with "
                    f"--{key}={before[key]}: resume with that, or name another folder"
                )


def _drop_unfinished_line(path: Path) -> None:
    """Cuts off a line that a kill or a full disk left unfinished."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
