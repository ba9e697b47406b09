"""Training losses of the five stages on this device, against losses kept from a CPU.

The first 20 updates of the ladder's runs, in float32 and, from stage 3 on, in bfloat16.
benchmarks/gpu_expected.json has the CPU's, in float32; `python -m benchmarks.gpu_check
--write-expected` makes it.
"""

import json
import platform
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import flax
import jax
import numpy as np

from benchmarks import results, works
from benchmarks.gpu_parts.finding import Finding
from benchmarks.ours import Updates
from input_pipeline import batches
from runtime import devices, process
from training.setup import set_up

EXPECTED = Path(__file__).parent.parent / "gpu_expected.json"
COMMAND = "python -m benchmarks.gpu_check --write-expected"
NUM_UPDATES = 20
PRESETS = ("", ":smoke")  # The sizes of the ladder, and those of a rehearsal.
# Largest relative difference of a loss: summation order, and rounding to 8 bits.
ALLOWED = {"float32": 1e-4, "bfloat16": 2e-2}


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if every loss of every stage is as near as its precision allows."""
    process.configure_jax()
    expected = json.loads(EXPECTED.read_text())["losses"]
    rounded = works.STAGES[-1:] if rehearse else works.STAGES[2:]
    cases = [
        (f"{stage}.py{PRESETS[rehearse]}", precision)
        for stage in works.STAGES
        for precision in (ALLOWED if stage in rounded else ["float32"])
    ]
    # Most of the time goes into compiling, which several threads do side by side.
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
        # A loss that is no number is as far away as can be.
        "largest": float(np.nan_to_num(relative, nan=np.inf).max()),
        "last_loss": found[-1],
        "seconds": time.perf_counter() - started,
    }


def losses(experiment: str, precision: str) -> list[float]:
    """Returns the loss of each update, an update a dispatch."""
    config = works.config_named(experiment)
    # A CPU that is slow with bfloat16 would take float32 instead.
    parts = set_up(config)._replace(precision=precision)
    updates = Updates(config, parts)
    drawn = batches.train_batches(
        parts.data.train,
        seed=config.seed,
        batch_size=config.train.batch_size,
        context_length=config.model.context_length,
        steps_per_dispatch=1,
        start_step=0,
        num_steps=NUM_UPDATES,
    )
    found = [updates(devices.split_batches(batches_1BT, parts.mesh)) for _, batches_1BT in drawn]
    return [float(loss) for loss in found]


def write_expected(path: Path = EXPECTED) -> None:
    """Writes the losses of this machine's CPU in float32."""
    process.configure_jax()
    cpu = results.facts()["cpu"]
    made_on = {"cpu": cpu, "python": platform.python_version(), "jax": jax.__version__}
    experiments = [f"{stage}.py{preset}" for preset in PRESETS for stage in works.STAGES]
    with jax.default_device(jax.devices("cpu")[0]):
        kept = {experiment: losses(experiment, "float32") for experiment in experiments}
    results.write(
        path,
        {"made_by": COMMAND, "made_on": made_on | {"flax": flax.__version__}, "losses": kept},
    )
