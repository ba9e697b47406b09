"""The fast paths train as the plain definitions do: `make bench-losses`.

The same 300 updates of the same batches, by the fast paths and, in float32, by the plain
definitions that stand beside them. Writes benchmarks/losses.json: the largest difference between
the training losses at every tenth step. Without dropout, whose draws depend on the form. Beside it
what rounding alone does: the plain definitions again, with the rows of each batch in reverse, which
changes nothing but the order of sums.
"""

import json
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks import results, works
from input_pipeline import batches
from models.layers import reference
from runtime import devices, errors, process
from training.setup import set_up
from training.step import create_state, initial_metrics, train_steps

OUTPUT = Path(__file__).parent / "losses.json"
EVERY = 10
# What the losses may differ by: the order of sums, and roundings to 8 bits.
ALLOWED = {"float32": 1e-3, "bfloat16": 0.02}

WORKS = flags.DEFINE_list("works", ["laptop", "baby-8-no-dropout"], "Which trainings.")
PRECISIONS = flags.DEFINE_list("precisions", list(ALLOWED), "Of the fast paths.")
UPDATES = flags.DEFINE_integer("updates", 300, "How many.")
ROUNDING = flags.DEFINE_bool("rounding", True, "Whether to train once more for rounding alone.")


def main() -> None:
    rows = json.loads(OUTPUT.read_text())["rows"] if OUTPUT.exists() else []
    for name in WORKS.value:
        config = works.config_of(name, smoke=False, num_tokens=1)
        config.train.steps_per_dispatch = EVERY
        with reference.forced():
            expected = losses(config, "float32")
            reordered = None
            if ROUNDING.value:
                reordered = np.abs(losses(config, "float32", in_reverse=True) - expected)
        for precision in PRECISIONS.value:
            differences = np.abs(losses(config, precision) - expected)
            row = {
                "work": name,
                "precision": precision,
                "updates": UPDATES.value,
                "largest_difference": float(differences.max()),
                "allowed": ALLOWED[precision],
                "by_rounding_alone": None if reordered is None else float(reordered.max()),
                "first_loss": float(expected[0]),
                "last_loss": float(expected[-1]),
            }
            print(row, flush=True)
            keys = ("work", "precision")
            rows = [one for one in rows if any(one[key] != row[key] for key in keys)] + [row]
            OUTPUT.write_text(
                json.dumps({"machine": results.facts(), "rows": rows}, indent=2) + "\n"
            )


def losses(config: ConfigDict, precision: str, *, in_reverse: bool = False) -> np.ndarray:
    """The training loss at every tenth step."""
    jax.clear_caches()  # Or what was traced for the other form would be used again.
    built = set_up(config)
    state = create_state(built.model, built.tx, config.seed, built.mesh)
    metrics = initial_metrics(built.mesh)
    bounds = 0, EVERY, np.uint32(config.seed), 0
    found = []
    for _, batches_KBT in batches.train_batches(
        built.data.train,
        seed=config.seed,
        batch_size=config.train.batch_size,
        context_length=config.model.context_length,
        steps_per_dispatch=EVERY,
        start_step=0,
        num_steps=UPDATES.value,
    ):
        if in_reverse:
            batches_KBT = batches_KBT[:, ::-1]
        batches_KBT = devices.split_batches(batches_KBT, built.mesh)
        with jax.default_matmul_precision(precision):
            state, metrics = train_steps(
                state, metrics, batches_KBT, *bounds, schedule=built.schedule
            )
        found.append(float(metrics.loss))
    return np.array(found)


if __name__ == "__main__":
    process.set_up_malloc()
    process.configure_jax()
    errors.run_command(main)
