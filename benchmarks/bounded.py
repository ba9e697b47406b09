"""Commands with a time limit, each in a process group of its own that ends with it."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Ended(NamedTuple):
    """End of a command."""

    code: int | None  # None where the time limit ended it.
    seconds: float


def run(
    words: Sequence[str], *, seconds: float, log: Path, environment: Mapping[str, str]
) -> Ended:
    """Runs a command in the checkout with `environment` added to ours; `log` gets what it prints.

    Kills what is left of its process group when it ends, when the time is up, or when this
    process is told to stop.
    """
    started = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            words,
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
    """Returns the last line of a log that begins with an exception's name, or else the last one."""
    lines = tail(log, 200)
    named = [one for one in lines if re.match(r"(error|[\w.]+(Error|Exception|Interrupt))\b", one)]
    return (named or lines or ["nothing was printed"])[-1]


def tail(log: Path, lines: int) -> list[str]:
    """Returns the last lines of a log that are not blank, each cut to 300 characters."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line[:300] for line in text.splitlines() if line.strip()][-lines:]
