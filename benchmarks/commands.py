"""Subprocesses: runs of main.py, and commands with a time limit."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Ended(NamedTuple):
    """Exit code and duration of a command."""

    code: int | None  # None after a timeout.
    seconds: float


def run(
    command: Sequence[str], *, seconds: float, log: Path, environment: Mapping[str, str]
) -> Ended:
    """Runs a command in the checkout, its output in `log`, `environment` added to this process's.

    Kills its process group when the command ends, after `seconds`, or when this process is told to
    stop.
    """
    started = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Ended(code, time.monotonic() - started)


def error_line(log: Path) -> str:
    """Returns the last line of a log that begins with an exception's name, else the last line."""
    lines = tail(log, 200)
    named = [one for one in lines if re.match(r"(error|[\w.]+(Error|Exception|Interrupt))\b", one)]
    return (named or lines or ["nothing was printed"])[-1]


def tail(log: Path, lines: int) -> list[str]:
    """Returns the last non-blank lines of a log, each cut to 300 characters."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line[:300] for line in text.splitlines() if line.strip()][-lines:]


def start_training(
    experiment: str,
    workdir: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    output: int = subprocess.DEVNULL,
) -> subprocess.Popen:
    """Starts main.py without W&B; its standard output goes to `output`."""
    words = ["main.py", f"--config=experiments/{experiment}", f"--workdir={workdir}"]
    return subprocess.Popen(
        [sys.executable, *words, "--config.tracking.wandb_mode=disabled", *flags],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=output,
        text=True,
    )


def finish(process: subprocess.Popen, *allowed: int) -> None:
    """Waits for a run. Raises RuntimeError for an exit code that is neither 0 nor `allowed`."""
    if process.wait() not in (0, *allowed):
        raise RuntimeError(f"{' '.join(process.args[1:4])} ended with code {process.returncode}")
