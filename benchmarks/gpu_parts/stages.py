"""Training losses of the five stages on this device against those of a CPU.

The first 20 updates of the ladder's runs, in float32 and, from stage 3 on, in bfloat16.
`python -m benchmarks.gpu_check --write-expected` writes the CPU's losses, in float32, to
benchmarks/gpu_expected.json.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jax
import numpy as np

import run_folder
from benchmarks import ours, results, workloads
from benchmarks.gpu_parts.finding import Finding
from experiments import default
from runtime import process

EXPECTED = Path(__file__).parent.parent / "gpu_expected.json"
COMMAND = "python -m benchmarks.gpu_check --write-expected"
NUM_UPDATES = 20
PRESETS = ("", ":smoke")  # The sizes of the ladder, and those of a rehearsal.
# Tolerances of a loss's relative difference: summation order, and rounding to bfloat16.
ALLOWED = {"float32": 1e-4, "bfloat16": 2e-2}


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if every loss of every stage is within the tolerance of its precision."""
    process.configure_jax()
    expected = json.loads(EXPECTED.read_text())["losses"]
    rounded = default.LADDER[-1:] if rehearse else default.LADDER[2:]
    cases = [
        (f"{stage}.py{PRESETS[rehearse]}", precision)
        for stage in default.LADDER
        for precision in (ALLOWED if stage in rounded else ["float32"])
    ]
    # In parallel, because compiling takes most of the time.
    with ThreadPoolExecutor() as pool:
        running = {pool.submit(differences, *case, expected[case[0]]): case for case in cases}
        passed, furthest = True, dict.fromkeys(ALLOWED, 0.0)
        for done in as_completed(running):
            experiment, precision = running[done]
            row = done.result()
            passed &= row["largest"] <= ALLOWED[precision]
            furthest[precision] = max(furthest[precision], row["largest"])
            finding.put(**{f"{experiment} {precision}": row | {"allowed": ALLOWED[precision]}})
    apart = ", ".join(f"{precision} {most:.1e}" for precision, most in furthest.items())
    finding.put(summary=f"largest relative difference of a loss: {apart}")
    finding.judge(passed)


def differences(experiment: str, precision: str, expected: list[float]) -> dict[str, float]:
    """Returns the largest relative difference from the expected losses, and the last loss."""
    started = time.perf_counter()
    found = losses(experiment, precision)
    relative = np.abs(np.array(found) / expected - 1)
    return {
        # A loss that is not finite fails.
        "largest": float(np.nan_to_num(relative, nan=np.inf).max()),
        "last_loss": found[-1],
        "seconds": time.perf_counter() - started,
    }


def losses(experiment: str, precision: str) -> list[float]:
    """Returns the loss of each update."""
    config = workloads.config_named(experiment)
    config.train.steps_per_dispatch = 1
    return ours.train_losses(config, precision, NUM_UPDATES)


def write_expected(path: Path = EXPECTED) -> None:
    """Writes the losses of this machine's CPU in float32."""
    process.configure_jax()
    host, versions = results.host(), results.versions("jax", "flax")
    made_on = {"cpu": host["cpu"], "python": host["python"], **versions}
    experiments = [f"{stage}.py{preset}" for preset in PRESETS for stage in default.LADDER]
    with jax.default_device(jax.devices("cpu")[0]):
        kept = {experiment: losses(experiment, "float32") for experiment in experiments}
    run_folder.write_json(path, {"made_by": COMMAND, "made_on": made_on, "losses": kept})
