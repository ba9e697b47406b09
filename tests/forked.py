"""Runs a command of the harness as a sweep does: forked from a process that has imported JAX.

That saves the seconds that a new Python takes to import it. A test of how a command starts, of its
surroundings or of its imports uses `run` of tests/command.py, which has the same arguments.
"""

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runtime import process
from sweep_engine.workers import Workers
from tests import command
from tests.command import OF_A_COMMAND, ROOT

# None of them defines flags or asks JAX for its devices; the commands import them when they need.
MODULES = ("train", "harness", "inference.streaming", "reporting.page", "reporting.figures")
# Prefixes of variables that nothing reads when it is imported.
LATE = ("WANDB_", "PYTEST_", "HOME", "XDG_", "HF_")


def fixed(environment: dict[str, str]) -> dict[str, str]:
    """Returns the variables that a process may have read before it is forked."""
    return {name: value for name, value in environment.items() if not name.startswith(LATE)}


AT_START = fixed(dict(os.environ))


@functools.cache
def server() -> Workers:
    """Returns the fork server of this process, started by the first command."""
    return Workers(1, MODULES)


def run(
    script: str,
    *arguments: str,
    cwd: Path = ROOT,
    seconds: float = OF_A_COMMAND,
    **environment: str,
) -> subprocess.CompletedProcess:
    """`python SCRIPT ARGUMENTS`, its output kept; variables of the environment may be set.

    In a new Python if a variable is set that the fork server would have read at its start. Raises
    subprocess.TimeoutExpired if it takes longer than `seconds`.
    """
    variables = {**os.environ, **environment}
    if fixed(variables) != AT_START or not script.endswith(".py"):
        return command.run(script, *arguments, cwd=cwd, seconds=seconds, **environment)
    workers = server()
    words = [script, *map(str, arguments)]
    with tempfile.TemporaryDirectory(prefix="forked-") as name:
        log, *files = (Path(name, kind) for kind in ("log", "stdout", "stderr"))
        # Or the command would start itself anew.
        variables["GLIBC_TUNABLES"] = process.MALLOC
        redirected = map(str, (ROOT / "tests/redirected.py", *files, cwd))
        argv = [sys.executable, *redirected, *words]
        workers.start("run", argv, variables, log, Path(name, "lock"))
        until = time.monotonic() + seconds
        while not (ended := workers.wait(1)):
            if time.monotonic() > until:
                workers.signal("run", signal.SIGKILL)
                while not workers.wait(1):
                    pass
                raise subprocess.TimeoutExpired(words, seconds)
        outputs = [path.read_text() if path.exists() else "" for path in files]
        return subprocess.CompletedProcess(words, ended[0][1], outputs[0], outputs[1])
