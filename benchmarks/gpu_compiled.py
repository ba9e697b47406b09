"""Rows of training steps compiled for one H100 on a machine that has none."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import bounded
from benchmarks.rounds import ROOT
from runtime import errors

# Of an environment that has JAX's compiler for CUDA: `make gpu-compile`.
PYTHON = ROOT / ".venv-gpu-compile/bin/python"


def check() -> None:
    """Raises UserError if that environment is not there."""
    if not PYTHON.exists():
        raise errors.UserError(f"--compile-only needs {PYTHON}: run make gpu-compile first")


def rows() -> Iterator[dict]:
    """Yields what benchmarks/gpu_compile.py describes as it comes, and a last row if it fails."""
    words = [str(PYTHON), "-m", "benchmarks.gpu_compile", "--json"]
    started = time.monotonic()
    with (
        tempfile.NamedTemporaryFile("w", suffix=".log") as log,
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        for line in process.stdout:
            facts = json.loads(line)
            figures = {
                name: facts[name] for name in facts if name not in ("experiment", "measured")
            }
            figures["summary"] = summary(facts)
            yield row_of(facts["experiment"], started, passed=None, figures=figures)
            started = time.monotonic()
        if process.wait():
            error = f"ended with code {process.returncode}: {bounded.error_line(Path(log.name))}"
            yield row_of("compiled", started, passed=False, figures={}, error=error)


def row_of(name: str, started: float, **facts: object) -> dict:
    """Returns a row, which is not measured."""
    seconds = time.monotonic() - started
    asks = "What is compiled for one H100?"
    return {"name": name, "asks": asks, "measured": False, "seconds": seconds, **facts}


def summary(facts: dict) -> str:
    """Returns the attention kernels and the memory in words."""
    kernels = f"{facts['attention_forward']} + {facts['attention_backward']} attention kernels"
    return f"{kernels}, products {facts['products']}, peak {facts['peak_bytes'] / 1e9:.2f} GB"
