"""Runs of main.py that the parts of the GPU check start."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.rounds import ROOT


def start(
    experiment: str, workdir: Path, *flags: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Starts a run without W&B; its standard output is dropped, its errors go where ours go."""
    words = ["main.py", f"--config=experiments/{experiment}", f"--workdir={workdir}"]
    return subprocess.Popen(
        [sys.executable, *words, "--config.tracking.wandb_mode=disabled", *flags],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
    )


def finish(run: subprocess.Popen, *allowed: int) -> None:
    """Waits for a run. Raises RuntimeError for an exit code that is neither 0 nor `allowed`."""
    if run.wait() not in (0, *allowed):
        raise RuntimeError(f"{' '.join(run.args[1:4])} ended with code {run.returncode}")
