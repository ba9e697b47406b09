"""Rows of training steps compiled for one H100 on a machine that has none."""

import json
import subprocess
import time
from collections.abc import Iterator

import errors
from benchmarks.rounds import ROOT

# As --config names them.
CONFIGS = [
    "experiments/bigram.py",
    "experiments/self_attention.py",
    "experiments/multi_head_attention.py",
    "experiments/transformer_decoder.py",
    "experiments/gpt2.py",
    "experiments/gpt2.py:baby",
    "experiments/gpt2.py:small",
]
# Of an environment that has the CUDA compiler: `make gpu-compile`.
PYTHON = ROOT / ".venv-gpu-compile/bin/python"


def check() -> None:
    """Raises UserError if that environment is not there."""
    if not PYTHON.exists():
        raise errors.UserError(f"--compile-only needs {PYTHON}: run make gpu-compile first")


def rows() -> Iterator[dict]:
    """Yields a row for each of CONFIGS as it is compiled; none of them is measured."""
    for config in CONFIGS:
        started = time.monotonic()
        words = [str(PYTHON), "-m", "benchmarks.gpu_compile", f"--config={config}", "--json"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        row = {"name": config, "asks": "What is compiled for one H100?", "measured": False}
        if done.returncode:
            lines = [one for one in done.stderr.splitlines() if one.strip()]
            found = {"passed": False, "figures": {}}
            found["error"] = f"ended with code {done.returncode}: {' '.join(lines[-1:])}"
        else:
            found = {"passed": None, "figures": json.loads(done.stdout)}
        yield {**row, **found, "seconds": time.monotonic() - started}
