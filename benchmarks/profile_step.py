"""Where the time of a training step goes: `python -m benchmarks.profile_step --work=baby-8`.

Sums XLA's trace of each operation by the part of the model that it belongs to. Operations run side
by side, so the sum exceeds the step; shares are of the sum.
"""

import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks import works
from input_pipeline import corpus
from runtime import devices, errors, process
from training.setup import set_up
from training.step import create_state, initial_metrics, train_steps

WORK = flags.DEFINE_string("work", "laptop", "Which training step: see works.py.")
PASSES = flags.DEFINE_integer("passes", 2, "Dispatches to trace.")

# The first of these that an operation's name has decides.
PARTS = {
    "norms": "_norm/",
    "attention, products": "BT...K",
    "dropout": "dropout",
    "Dense": "/(query|key|value|out|up|down|logits)/",
    "attention, softmax and mask": "/attention/",
    "activation of the MLP": "/mlp/",
    "embeddings, tied head": "embed",
    "loss": "jvp",
    "optimizer": "branch_1|cond",
}


def main() -> None:
    config = works.config_of(WORK.value, smoke=False, num_tokens=1)
    built = set_up(config)
    batches = works.training(corpus.load(config.data), config)["batches_KBT"]
    batches_KBT = devices.split_batches(batches, built.mesh)
    state = create_state(built.model, built.tx, config.seed, built.mesh)
    metrics = initial_metrics(built.mesh)
    bounds = (0, len(batches), np.uint32(config.seed), 0)
    with jax.default_matmul_precision(built.precision):
        program = train_steps.lower(
            state, metrics, batches_KBT, *bounds, schedule=built.schedule
        ).compile()
    names = operation_names(program.as_text())

    def passes() -> float:
        nonlocal state, metrics
        started = time.perf_counter()
        for _ in range(PASSES.value):
            state, metrics = program(state, metrics, batches_KBT, *bounds)
        jax.block_until_ready(metrics)
        return time.perf_counter() - started

    passes()
    updates = PASSES.value * len(batches)
    milliseconds = 1e3 * passes() / updates
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        with jax.profiler.trace(folder):
            passes()
        nanoseconds = operations(Path(folder))
    by_part = Counter()
    for operation, spent in nanoseconds.items():
        by_part[part_of(operation, names.get(operation, ""))] += spent / 1e6 / updates
    total = by_part.total()
    print(f"{WORK.value}, {built.precision}: {milliseconds:.4g} ms a step")
    for part, spent in by_part.most_common():
        print(f"{spent:10.3f} ms {100 * spent / total:5.1f} %  {part}")


def operation_names(program: str) -> dict[str, str]:
    """Which line of ours each operation of a compiled program comes from."""
    return dict(re.findall(r'%?([\w.-]+) = .*?metadata=\{op_name="([^"]*)"', program))


def operations(folder: Path) -> Counter:
    """Nanoseconds of each operation in a trace; loops and conditions do not count their insides."""
    (path,) = folder.rglob("*.xplane.pb")
    spent = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op", "")
                if operation and not re.match("while|cond|call", operation):
                    spent[operation] += event.duration_ns
    return spent


def part_of(operation: str, name: str) -> str:
    """The part of PARTS, and for the parts of the model whether it is the backward pass."""
    found = next((part for part, pattern in PARTS.items() if re.search(pattern, name)), "other")
    if "jvp" not in name:
        return found
    if found == "Dense" and "dot_general" not in name:
        found = "Dense, biases and layout"
    return f"{found}, {'backward' if 'transpose(' in name else 'forward'}"


if __name__ == "__main__":
    process.set_up_malloc()
    process.configure_jax()
    errors.run_command(main)
