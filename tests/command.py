"""Runs a command of the harness as a user does: a process of its own, in the checkout."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# In what tests/conftest.py sets apart.
AS_USERS_DO = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}


def run(
    script: str, *arguments: str, seconds: float = 300, **environment: str
) -> subprocess.CompletedProcess:
    """`python SCRIPT ARGUMENTS`, its output kept; variables of the environment may be set.

    Raises subprocess.TimeoutExpired if it takes longer than `seconds`.
    """
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def assert_refused(result: subprocess.CompletedProcess, message: str) -> None:
    """It exited with 2, having printed one line, which holds `message`."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr
