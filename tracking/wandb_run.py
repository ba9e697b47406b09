"""The W&B sink of the training process: sends events through a pipe to wandb_process.py.

W&B runs in a separate process, for three reasons. Its import and start (1 s) overlap with
compilation instead of holding Python's global interpreter lock. It can neither prompt for a key nor
wrap `sys.exit` here. A process that hangs can be killed, a thread can't. The pipe never blocks:
events that do not fit into it wait in memory.

W&B has one row for each line of the record, in the same order, so the record alone determines the
row after which a resumed run continues. If W&B has no run to continue (it was off, or failed), all
lines are sent again, to a new run.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import run_folder
from runtime.errors import UserError
from tracking import sweep

MODES = ("offline", "online", "disabled")
# Other values of WANDB_MODE, and what each means for a single process.
SYNONYMS = {"dryrun": "offline", "run": "online", "shared": "online"}
# More than wandb_process.py allows W&B, so that only a process that hangs is killed.
FINISH_SECONDS = 15


def choose_mode(configured: str) -> str:
    """Returns WANDB_MODE if it is set, else `configured`. Raises UserError if not in `MODES`."""
    from_environment = os.environ.get("WANDB_MODE", "")
    mode = SYNONYMS.get(from_environment, from_environment or configured)
    if mode not in MODES:
        where = "WANDB_MODE" if from_environment else "--config.tracking.wandb_mode"
        raise UserError(f"{where}={mode!r}: expected one of {', '.join(MODES)}")
    return mode


class WandbRun:
    """Sink that sends each line to a W&B run; calls `note` once if that run fails.

    `earlier` are the lines of the record from before the run was resumed.
    """

    def __init__(
        self, workdir: Path, arguments: dict, earlier: list[dict], note: Callable[[str], None]
    ) -> None:
        self._note = note
        self._id_file = workdir / run_folder.WANDB
        self._lost = False
        self._unsent = bytearray()
        self._unread = b""
        run_id, kept = self._choose_run(earlier)
        self._process = _start_process(workdir)
        assert self._process.stdin and self._process.stdout  # Both are pipes.
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)
        self._send({"open": {**arguments, "id": run_id, "kept": kept}})
        for line in earlier:
            self._send({"sample" if "text" in line else "row": line})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends a line of metrics."""
        self._send({"row": {"step": step, **metrics}})

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Sends a sample."""
        self._send({"sample": {"step": step, "prompt": prompt, "text": text}})

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """Sends the summary and waits for the process, `FINISH_SECONDS` at most."""
        self._send({"finish": {"summary": dict(summary), "exit_code": exit_code}})
        try:
            output, _ = self._process.communicate(bytes(self._unsent), timeout=FINISH_SECONDS)
            self._read(output)
            if self._process.returncode:
                self._lose(f"its process ended with {self._process.returncode}")
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._lose(f"it did not finish within {FINISH_SECONDS} s")

    def _choose_run(self, earlier: list[dict]) -> tuple[str, int]:
        """Returns the id of the W&B run, and how many of its rows to keep."""
        # A sweep's agent chooses the id, and so may a user.
        chosen = os.environ.get("WANDB_RUN_ID", "")
        if earlier and self._id_file.exists():
            saved = run_folder.read_object(self._id_file).get("id")
            if saved and chosen in ("", saved):
                return saved, len(earlier)
        self._id_file.unlink(missing_ok=True)
        return chosen or secrets.token_hex(4), 0

    def _send(self, event: dict) -> None:
        if self._lost:
            return
        self._unsent += json.dumps(event, default=str).encode() + b"\n"
        exited = False
        try:
            while self._unsent:
                del self._unsent[: os.write(self._input.fileno(), self._unsent)]
        except BlockingIOError:
            pass  # The pipe is full: a later event, or `finish`, sends the rest.
        except BrokenPipeError:
            exited = True
        # First, because the process may have reported the reason. None if there is nothing to read.
        self._read(self._output.read() or b"")
        if exited:
            self._lose("its process has exited")

    def _read(self, output: bytes) -> None:
        """Handles what the process reports: the run it started, notes, and failure."""
        *lines, self._unread = (self._unread + output).split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"id": run_id}:
                    run_folder.write_json(self._id_file, {"id": run_id})
                case {"note": message}:
                    self._note(message)
                case {"lost": reason}:
                    self._lose(reason)

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self._lost = True
            self._unsent.clear()
            # The W&B run lacks rows from here on: a resumed run must send all of them again.
            self._id_file.unlink(missing_ok=True)
            self._note(f"W&B failed, its run is incomplete, the training continues: {reason}")


def _start_process(workdir: Path) -> subprocess.Popen:
    # W&B keeps a copy of each table here until it is uploaded; the default is the home folder.
    environment = {"WANDB_DATA_DIR": str(workdir.resolve() / "wandb" / "data"), **os.environ}
    return subprocess.Popen(
        # -P: modules of this package must not shadow those that W&B imports.
        [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        # Ctrl-C must reach the training process alone, which then finishes this one.
        start_new_session=True,
    )


def init_arguments(config: ConfigDict, workdir: Path, num_params: int, mode: str) -> dict:
    """Returns the arguments of wandb.init that the config determines."""
    tracking, swept = config.tracking, sweep.current()
    return {
        "mode": mode,
        "dir": str(workdir.resolve()),
        "project": tracking.wandb_project,
        "entity": tracking.wandb_entity or None,
        "name": tracking.name or (swept.name if swept else workdir.resolve().name),
        "group": tracking.group or config.model.name,
        "job_type": tracking.job_type,
        # The command line gives several tags as one string: --config.tracking.tags=a,b.
        "tags": [tag for tags in tracking.tags for tag in tags.split(",")],
        "notes": tracking.notes or None,
        # Named as flags and sweeps name them, so that a sweep adds no second column for a key.
        "config": {**run_folder.flatten(config.to_dict(), "config."), "num_params": num_params},
    }
