"""The W&B sink of the training process: sends events through a pipe to wandb_process.py.

W&B runs in a separate process, for three reasons. Its import and start (1 s) overlap with
compilation instead of holding Python's global interpreter lock. It can neither prompt for a key nor
wrap `sys.exit` here. A process that hangs can be killed, a thread can't. The pipe never blocks:
events that do not fit into it wait in memory.

W&B has one row for each line of the record, in the same order, so the record alone determines the
row after which a resumed run continues. If W&B has no run to continue (it was off, or failed), all
lines are sent again, to a new run.
"""

import io
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import run_folder
from tracking import wandb_variables
from tracking.artifact import artifact_of
from tracking.sink import Model, Sink
from tracking.wandb_process import PATIENCE

# More than wandb_process.py allows W&B, so that only a process that hangs is killed.
FINISH_SECONDS = 15
# Limit for the upload of a model, at the end of a run.
MODEL_SECONDS = 300


class Console(io.StringIO):
    """Stream whose text goes to `send` each time it is flushed: what a run prints, for W&B."""

    def __init__(self, send: Callable[[str], object]) -> None:
        super().__init__()
        self._send = send

    def flush(self) -> None:
        """Sends the text."""
        if text := self.getvalue():
            self.seek(0)
            self.truncate()
            self._send(text)


class WandbRun(Sink):
    """Sink that sends each line to a W&B run; calls `note` once if that run fails.

    `earlier` are the lines of the record from before the run was resumed.
    """

    def __init__(
        self, workdir: Path, arguments: dict, earlier: list[dict], note: Callable[[str], None]
    ) -> None:
        self._note = note
        self._is_offline = arguments["mode"] == "offline"
        self._workdir = workdir
        self._name = arguments["name"]
        self._id_file = workdir / run_folder.WANDB
        # Until the process has answered, what was asked for.
        self._is_online = arguments["mode"] == "online"
        self._lost = False
        self._is_closed = False
        self._unsent = bytearray()
        self._unread = b""
        run_id, kept = self._choose_run(earlier)
        self.console = Console(lambda text: self._write({"console": text}))
        self._writing = threading.Lock()  # A note may come from any thread.
        self._process = _start_process(workdir)
        assert self._process.stdin and self._process.stdout  # Both are pipes.
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)
        opening = {"id": run_id, "kept": kept, "id_file": str(self._id_file.resolve())}
        self._send({"open": {**arguments, **opening}})
        for line in earlier:
            self._send({"sample" if "text" in line else "row": line})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends a line of metrics."""
        self._send({"row": {"step": step, **metrics}})

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Sends a sample."""
        self._send({"sample": {"step": step, "prompt": prompt, "text": text}})

    def alert(self, title: str, text: str) -> None:
        """Sends an alert, which W&B passes on by e-mail or Slack, as the user has set it up."""
        self._send({"alert": {"title": title, "text": text, "level": "ERROR"}})

    def finish(self, summary: Mapping[str, Any], exit_code: int, model: Model | None) -> None:
        """Sends the summary and the model, if any, and waits for the process.

        It waits `FINISH_SECONDS * PATIENCE` at most, and `MODEL_SECONDS` more for a model.
        """
        seconds: float = FINISH_SECONDS * PATIENCE
        if model:
            seconds += MODEL_SECONDS
            artifact = artifact_of(model, self._workdir, self._name, summary)
            self._send({"model": {**artifact, "seconds": MODEL_SECONDS}})
            if self._is_online and not self._lost:
                self._note(
                    f"uploading the model of step {model.step} to W&B, {MODEL_SECONDS} s at most"
                )
        self._send({"finish": {"summary": dict(summary), "exit_code": exit_code}})
        with self._writing:
            self._is_closed = True
        try:
            output, _ = self._process.communicate(bytes(self._unsent), timeout=seconds)
            self._read(output)
            if self._process.returncode:
                self._lose(f"its process ended with {self._process.returncode}")
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._lose(f"it did not finish within {seconds} s")
        if self._is_offline and not self._lost:
            self._note(
                "to upload this run: wandb sync "
                f"{shlex.quote(str(self._workdir / 'wandb'))}/offline-run-*"
            )

    def _choose_run(self, earlier: list[dict]) -> tuple[str, int]:
        """Returns the id of the W&B run, and how many of its rows to keep."""
        # A sweep's agent chooses the id, and so may a user.
        chosen = os.environ.get("WANDB_RUN_ID", "").strip()
        if earlier and self._id_file.exists():
            saved = run_folder.read_object(self._id_file).get("id")
            if saved and chosen in ("", saved):
                return saved, len(earlier)
        self._id_file.unlink(missing_ok=True)
        return chosen or secrets.token_hex(4), 0

    def _send(self, event: dict) -> None:
        """Sends an event and handles what the process has reported; in the training's thread."""
        if self._lost:
            return
        exited = not self._write(event)
        # First, because the process may have reported the reason. None if there is nothing to read.
        self._read(self._output.read() or b"")
        if exited:
            self._lose("its process has exited")

    def _write(self, event: dict) -> bool:
        """Sends an event as far as the pipe has room; returns False if the process has exited."""
        with self._writing:
            if self._is_closed:
                return True
            text = json.dumps(event, default=str, ensure_ascii=False)
            # W&B takes no lone surrogate, which stands for a byte of a name that is not UTF-8.
            self._unsent += text.encode("utf-8", "replace") + b"\n"
            try:
                while self._unsent:
                    del self._unsent[: os.write(self._input.fileno(), self._unsent)]
            except BlockingIOError:
                pass  # The pipe is full: a later event, or `finish`, sends the rest.
            except BrokenPipeError:
                return False
            return True

    def _read(self, output: bytes) -> None:
        """Handles what the process reports: the run it started, notes, and failure."""
        *lines, self._unread = (self._unread + output).split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"id": _, "url": address}:
                    self._is_online = address is not None
                    if address:
                        self._note(f"W&B shows this run at {address}")
                case {"note": message}:
                    self._note(message)
                case {"lost": reason}:
                    self._lose(reason)

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self._lost = True
            with self._writing:
                self._is_closed = True
                self._unsent.clear()
            # The W&B run lacks rows from here on: a resumed run must send all of them again.
            self._id_file.unlink(missing_ok=True)
            self._note(f"W&B failed, its run is incomplete, the training continues: {reason}")


def _start_process(workdir: Path) -> subprocess.Popen:
    # W&B keeps a copy of each table here until it is uploaded; the default is the home folder.
    data = {"WANDB_DATA_DIR": str(workdir.resolve() / "wandb" / "data")}
    environment = data | wandb_variables.for_client(os.environ)
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
