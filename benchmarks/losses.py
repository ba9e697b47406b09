"""Losses of the optimized implementations against the reference implementations.

`make bench-losses` trains 300 updates on the same batches with the optimized implementations and,
in float32, with the reference implementations, and writes to benchmarks/losses.json the largest
difference between the losses of every tenth step. Without dropout, whose draws depend on the
implementation. For comparison it measures rounding alone: the reference implementations with the
rows of each batch reversed, which changes only the floating-point summation order.
"""

import json
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import run_folder
from benchmarks import checks, ours, results, workloads
from models.layers import reference
from runtime import errors, process

OUTPUT = Path(__file__).parent / "losses.json"
EVERY = 10
# Tolerances: summation order, and rounding to bfloat16's 8 significant bits.
ALLOWED = {"float32": 1e-3, "bfloat16": 0.02}

NAMES = flags.DEFINE_list("works", ["laptop", "baby-8-no-dropout"], "Workloads to train.")
PRECISIONS = flags.DEFINE_list("precisions", list(ALLOWED), "Precisions of the optimized side.")
UPDATES = flags.DEFINE_integer("updates", 300, "Updates to train for.")
ROUNDING = flags.DEFINE_bool("rounding", True, "Train once more to measure rounding alone.")


def main() -> None:
    """Trains the chosen workloads and writes a row for each precision."""
    checks.check_choices("works", NAMES.value, workloads.WORKLOADS)
    checks.check_choices("precisions", PRECISIONS.value, ALLOWED)
    rows = json.loads(OUTPUT.read_text())["rows"] if OUTPUT.exists() else []
    for name in NAMES.value:
        config = workloads.config_of(name, smoke=False, num_tokens=1)
        config.train.steps_per_dispatch = EVERY
        rounding = None
        with reference.forced():
            expected = losses(config, "float32")
            if ROUNDING.value:
                reordered = losses(config, "float32", reverse_rows=True)
                rounding = float(np.abs(reordered - expected).max())
        for precision in PRECISIONS.value:
            differences = np.abs(losses(config, precision) - expected)
            row = {
                "work": name,
                "precision": precision,
                "updates": UPDATES.value,
                "largest_difference": float(differences.max()),
                "allowed": ALLOWED[precision],
                "by_rounding_alone": rounding,
                "first_loss": float(expected[0]),
                "last_loss": float(expected[-1]),
            }
            print(row, flush=True)
            rows = results.replaced(rows, row, ("work", "precision"))
            run_folder.write_json(OUTPUT, {"machine": results.host(), "rows": rows})


def losses(config: ConfigDict, precision: str, *, reverse_rows: bool = False) -> np.ndarray:
    """Returns the training loss at every tenth step."""
    jax.clear_caches()  # Or jit would reuse the traces of the other implementation.
    return np.array(ours.train_losses(config, precision, UPDATES.value, reverse_rows=reverse_rows))


if __name__ == "__main__":
    process.set_up_malloc()
    process.configure_jax()
    errors.run_command(main)
