"""Runs a command of the harness as a user does: a process of its own, in the checkout.

No test has to be fast: a limit of time ends what would never end, on any machine under any load.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
# In what tests/conftest.py sets apart.
AS_USERS_DO = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
# Seconds until something that takes seconds, or a command that takes a minute, counts as hanging.
PATIENCE, OF_A_COMMAND = 300, 1200


def run(
    script: str,
    *arguments: str,
    cwd: Path = ROOT,
    seconds: float = OF_A_COMMAND,
    **environment: str,
) -> subprocess.CompletedProcess:
    """`python SCRIPT ARGUMENTS`, its output kept; variables of the environment may be set.

    Raises subprocess.TimeoutExpired if it takes longer than `seconds`.
    """
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def wait_until(condition: Callable[[], object]) -> None:
    """Returns when `condition()` holds. Raises AssertionError if it never does."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"not true after {PATIENCE} s"
        time.sleep(0.05)


def state_of(pid: int) -> str:
    """Returns the state of a process as ps shows it, such as R or S; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def has_ended(pid: int) -> bool:
    """Returns True if there is no such process, or if nobody has asked how it ended."""
    return state_of(pid) in ("", "Z")


def assert_refused(result: subprocess.CompletedProcess, message: str) -> None:
    """It exited with 2, having printed one line, which holds `message`."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr
