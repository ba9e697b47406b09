"""Time of a training step by part of the model: `python -m benchmarks.profile_step --work=baby-8`.

Sums the operations of XLA's trace by the part that they belong to. Operations run in parallel, so
the sum exceeds the step's time; shares are of the sum.
"""

import re
import tempfile
from collections import Counter
from pathlib import Path

import jax
from absl import flags

from benchmarks import ours, workloads
from benchmarks.rounds import seconds_of
from runtime import devices, errors, process
from training.setup import set_up

WORK = flags.DEFINE_enum(
    "work",
    "laptop",
    [name for name, workload in workloads.WORKLOADS.items() if workload.kind == "training"],
    "Training step to profile.",
)
PASSES = flags.DEFINE_integer("passes", 2, "Dispatches to trace.")

# An operation belongs to the first part whose pattern is in its name.
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
    """Profiles the chosen training step and prints the time of each part."""
    config = workloads.config_of(WORK.value, smoke=False, num_tokens=1)
    parts = set_up(config)
    batches_KBT = devices.split_batches(next(workloads.draw(parts.data, config)), parts.mesh)
    step = ours.TrainStep(config, parts)
    names = operation_names(step.compiled_text(batches_KBT))

    def passes() -> None:
        for _ in range(PASSES.value):
            loss = step(batches_KBT)
        jax.block_until_ready(loss)

    passes()  # Warms up.
    updates = PASSES.value * len(batches_KBT)
    milliseconds = 1e3 * seconds_of(passes) / updates
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        with jax.profiler.trace(folder):
            passes()
        nanoseconds = operation_times(Path(folder))
    by_part = Counter()
    for operation, spent in nanoseconds.items():
        by_part[part_of(operation, names.get(operation, ""))] += spent / 1e6 / updates
    total = by_part.total()
    print(f"{WORK.value}, {parts.precision}: {milliseconds:.4g} ms a step")
    for part, spent in by_part.most_common():
        print(f"{spent:10.3f} ms {100 * spent / total:5.1f} %  {part}")


def operation_names(program: str) -> dict[str, str]:
    """Returns JAX's name (scopes and primitive) of each operation in a compiled program."""
    return dict(re.findall(r'%?([\w.-]+) = .*?metadata=\{op_name="([^"]*)"', program))


def operation_times(folder: Path) -> Counter:
    """Returns the nanoseconds of each operation in a trace.

    Leaves out loops and conditionals: their time is that of the operations in them.
    """
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
    """Returns the operation's part of PARTS, with its pass (forward or backward) in the model."""
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
