"""20 updates in one run, against 10, a resumption and 10 more: the same bits?

With XLA's deterministic operations they have to be; without, it is recorded. Each run is a process
of its own, as after a crash.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.gpu_parts import runs
from benchmarks.gpu_parts.finding import Finding
from tracking import run_folder

EXPERIMENT = "gpt2.py:smoke"
HALF, WHOLE = 10, 20
FLAGS = {"deterministic": "--xla_gpu_deterministic_ops=true", "default": ""}
FILES = ("params.safetensors", "opt_state.safetensors")


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if the deterministic runs end bit-equal."""
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        places = {
            (mode, name): Path(folder, f"{mode}-{name}")
            for mode in FLAGS
            for name in ("whole", "in-parts")
        }
        train(places)
        resumed = {key: place for key, place in places.items() if key[1] == "in-parts"}
        for place in resumed.values():
            shutil.rmtree(checkpoint(place, WHOLE))  # Back to where 10 updates were saved.
        train(resumed, "--config.checkpoint.resume=true")
        for mode in FLAGS:
            whole, in_parts = (
                checkpoint(places[mode, name], WHOLE) for name in ("whole", "in-parts")
            )
            finding.put(**{mode: compare(whole, in_parts)})
    equal = {mode: finding.figures[mode]["bit_equal"] for mode in FLAGS}
    finding.put(summary=f"bit-equal: {equal}")
    finding.judge(finding.figures["deterministic"]["bit_equal"])


def train(places: dict[tuple[str, str], Path], *flags: str) -> None:
    """Runs main.py in each of the folders, all at once: most of it is the start of the process."""
    before = os.environ.get("XLA_FLAGS", "")
    started = [
        runs.start(
            EXPERIMENT,
            place,
            *flags,
            environment={
                "XLA_FLAGS": f"{before} {FLAGS[mode]}".strip(),
                "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.1",  # They share the device.
            },
        )
        for (mode, _), place in places.items()
    ]
    for one in started:
        runs.finish(one)


def checkpoint(workdir: Path, step: int) -> Path:
    """Returns the folder of a checkpoint."""
    return workdir / run_folder.CHECKPOINTS / str(step)


def compare(whole: Path, in_parts: Path) -> dict[str, bool | float]:
    """Returns whether two checkpoints have the same bytes, and the largest difference in them."""
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
