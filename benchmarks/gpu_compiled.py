"""Rows of training steps compiled for one H100 on a machine without a GPU."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import commands
from runtime import errors

# Of the environment that has JAX's CUDA plugin.
PYTHON = commands.ROOT / ".venv-gpu-compile/bin/python"


def check() -> None:
    """Raises UserError if the environment with JAX's CUDA plugin is missing."""
    if not PYTHON.exists():
        raise errors.UserError(f"--compile-only needs {PYTHON}: run make gpu-compile first")


def rows() -> Iterator[dict]:
    """Yields a row for each program that gpu_compile.py compiles, and one more if it fails."""
    command = [str(PYTHON), "-m", "benchmarks.gpu_compile", "--json"]
    started = time.monotonic()
    with (
        tempfile.NamedTemporaryFile("w", suffix=".log") as log,
        subprocess.Popen(
            command, cwd=commands.ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        for line in process.stdout:
            facts = json.loads(line)
            del facts["measured"]
            name = facts.pop("experiment")
            figures = {**facts, "summary": summary(facts)}
            yield make_row(name, started, passed=None, figures=figures)
            started = time.monotonic()
        if process.wait():
            error = f"ended with code {process.returncode}: {commands.error_line(Path(log.name))}"
            yield make_row("compiled", started, passed=False, figures={}, error=error)


def make_row(name: str, started: float, **facts: object) -> dict:
    """Returns a row, marked as not measured."""
    seconds = time.monotonic() - started
    asks = "What is compiled for one H100?"
    return {"name": name, "asks": asks, "measured": False, "seconds": seconds, **facts}


def summary(facts: dict) -> str:
    """Returns a line with the attention kernels, the products and the peak memory."""
    kernels = f"{facts['attention_forward']} + {facts['attention_backward']} attention kernels"
    return f"{kernels}, products {facts['products']}, peak {facts['peak_bytes'] / 1e9:.2f} GB"
