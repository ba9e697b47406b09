"""The W&B sink, as the training process sees it: events go down a pipe to wandb_process.py.

W&B lives in a process of its own because that alone keeps every promise about it. Its import and
start (about a second) overlap with compilation instead of holding Python's lock; it can neither
prompt for a key nor wrap `sys.exit` here; and one that hangs can be killed, where a thread can't.
The pipe never blocks: what does not fit in it waits in memory.

W&B holds one row for each line of the record, in its order, so the row that a resumed run goes on
after is known from the record alone. If there is no run to go on in (W&B was off or failed), the
lines so far are sent again, into a new one.
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
# Other words that the environment variable may hold, and what they come to for a single process.
SYNONYMS = {"dryrun": "offline", "run": "online", "shared": "online"}
# More than wandb_process.py gives W&B itself, so this ends only a process that hangs.
FINISH_SECONDS = 15


def choose_mode(configured: str) -> str:
    """Which of `MODES` holds: WANDB_MODE if it is set, else `configured`.

    Raises UserError for any other word.
    """
    from_environment = os.environ.get("WANDB_MODE", "")
    mode = SYNONYMS.get(from_environment, from_environment or configured)
    if mode not in MODES:
        where = "WANDB_MODE" if from_environment else "config.tracking.wandb_mode"
        raise UserError(f"{where} is {mode!r}: expected one of {', '.join(MODES)}")
    return mode


class WandbRun:
    """Sends what is logged to a W&B run, and `note`s once if there is none, or no longer."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        num_params: int,
        mode: str,
        earlier: list[dict],
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self._id_file = workdir / run_folder.WANDB
        self._lost = False
        self._unsent = bytearray()
        self._unread = b""
        run_id, kept = self._which_run(earlier)
        self._process = _start_process(workdir)
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._process.stdout.fileno(), False)
        arguments = _init_arguments(config, workdir, num_params, mode)
        self._send({"open": {**arguments, "id": run_id, "kept": kept}})
        for line in earlier:
            self._send({"sample" if "text" in line else "row": line})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._send({"row": {"step": step, **metrics}})

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        self._send({"sample": {"step": step, "prompt": prompt, "text": text}})

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
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

    def _which_run(self, earlier: list[dict]) -> tuple[str, int]:
        """The id of the W&B run, and how many of its rows stay."""
        # A sweep's agent chooses the id; so may anyone else who starts this process.
        chosen = os.environ.get("WANDB_RUN_ID", "")
        saved = ""
        if self._id_file.exists():
            saved = run_folder.read_object(self._id_file).get("id", "")
        if earlier and saved and saved == (chosen or saved):
            return saved, len(earlier)
        self._id_file.unlink(missing_ok=True)
        return chosen or secrets.token_hex(4), 0

    def _send(self, event: dict) -> None:
        if self._lost:
            return
        self._unsent += json.dumps(event, default=str).encode() + b"\n"
        try:
            while self._unsent:
                del self._unsent[: os.write(self._process.stdin.fileno(), self._unsent)]
        except BlockingIOError:
            pass  # The pipe is full: the rest goes with a later event, or in `finish`.
        except BrokenPipeError:
            self._read(self._receive())
            self._lose("its process is gone")
            return
        self._read(self._receive())

    def _receive(self) -> bytes:
        try:
            return self._process.stdout.read() or b""
        except BlockingIOError:
            return b""

    def _read(self, output: bytes) -> None:
        """Acts on what the process reports: the run it started, notes, and that it gave up."""
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
            # The W&B run lacks rows from here on: a resumed run is to send them all again.
            self._id_file.unlink(missing_ok=True)
            self._note(f"W&B is left out from here on, its run is not complete: {reason}")


def _start_process(workdir: Path) -> subprocess.Popen:
    # W&B copies each table here until it is uploaded; by default into the home folder.
    environment = {"WANDB_DATA_DIR": str(workdir.resolve() / "wandb" / "data"), **os.environ}
    return subprocess.Popen(
        # -P: the folder of this package is not to shadow modules that W&B imports.
        [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        # Ctrl-C on the terminal is for the training process, which then finishes this one.
        start_new_session=True,
    )


def _init_arguments(config: ConfigDict, workdir: Path, num_params: int, mode: str) -> dict:
    """The arguments of wandb.init that the config decides."""
    tracking, swept = config.tracking, sweep.current()
    return {
        "mode": mode,
        "dir": str(workdir.resolve()),
        "project": tracking.wandb_project,
        "entity": tracking.wandb_entity or None,
        "name": tracking.name or (swept.name if swept else workdir.resolve().name),
        "group": tracking.group or config.model.name,
        "job_type": tracking.job_type,
        # On the command line several come as one: --config.tracking.tags=a,b.
        "tags": [tag for tags in tracking.tags for tag in tags.split(",")],
        "notes": tracking.notes or None,
        # The names that flags and sweeps use, so that a sweep adds no second column for a key.
        "config": {**run_folder.flatten(config.to_dict(), "config."), "num_params": num_params},
    }
