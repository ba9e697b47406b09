"""Resume bit for bit: 20 updates in one run, against 10, a resumed run and 10 more.

They must be equal with XLA's deterministic operations; without these, the result is recorded. Each
run is a process of its own, as after a crash.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import run_folder
from benchmarks import commands
from benchmarks.gpu_parts.finding import Finding

EXPERIMENT = "gpt2.py:smoke"
WHOLE = 20
FLAGS = {"deterministic": "--xla_gpu_deterministic_ops=true", "default": ""}
FILES = ("params.safetensors", "opt_state.safetensors")


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if the deterministic runs end bit-equal."""
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        whole, in_parts = (
            {mode: Path(folder, f"{mode}-{name}") for mode in FLAGS} for name in "ab"
        )
        train(whole)
        train(in_parts)
        for workdir in in_parts.values():
            shutil.rmtree(checkpoint(workdir, WHOLE))  # Back to the checkpoint of step 10.
        train(in_parts, "--config.checkpoint.resume=true")
        for mode in FLAGS:
            ends = (checkpoint(workdir[mode], WHOLE) for workdir in (whole, in_parts))
            finding.put(**{mode: compare(*ends)})
    equal = {mode: finding.figures[mode]["bit_equal"] for mode in FLAGS}
    finding.put(summary=f"bit-equal: {equal}")
    finding.judge(equal["deterministic"])


def train(workdirs: dict[str, Path], *flags: str) -> None:
    """Runs main.py in each mode's folder, in parallel because starting takes most of the time."""
    before = os.environ.get("XLA_FLAGS", "")
    started = []
    for mode, workdir in workdirs.items():
        environment = {"XLA_FLAGS": f"{before} {FLAGS[mode]}".strip()} if FLAGS[mode] else {}
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.4"  # Both share the device.
        started.append(
            commands.start_training(EXPERIMENT, workdir, *flags, environment=environment)
        )
    for one in started:
        commands.finish(one)


def checkpoint(workdir: Path, step: int) -> Path:
    """Returns the folder of a checkpoint."""
    return workdir / run_folder.CHECKPOINTS / str(step)


def compare(whole: Path, in_parts: Path) -> dict[str, bool | float]:
    """Compares two checkpoints: returns True for equal bytes, and the largest difference."""
    differences = []
    for name in FILES:
        one, other = load_file(whole / name), load_file(in_parts / name)
        differences += [np.abs(one[key] - other[key]).max(initial=0) for key in one]
    return {
        "bit_equal": all(
            (whole / name).read_bytes() == (in_parts / name).read_bytes() for name in FILES
        ),
        "largest_difference": float(max(differences)),
    }
