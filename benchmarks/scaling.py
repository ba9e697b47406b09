"""GPT-2 of all four sizes on 1, 8 and 64 H100s, without one: `make scaling`, for 20 minutes.

Compiles the training step for each and writes benchmarks/scaling.json: memory, what is sent, and a
roofline's least time. docs/scaling_out.md has the table, and docs/openwebtext.md that of the recipe
`:openwebtext` on 1 and 8.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # Before JAX is imported.

import jax
from absl import flags

from benchmarks import workloads
from benchmarks.commands import ROOT
from runtime import errors, process
from training import plan, roofline, topology
from training.compiled import compile_step
from training.setup import set_up

OUTPUT = flags.DEFINE_string("output", str(ROOT / "benchmarks/scaling.json"), "File to write.")
# Windows of 1,024 tokens on each GPU.
SIZES = {"small": 12, "medium": 12, "large": 8, "xl": 8}
# A node's GPUs divide the model, and nodes the batch: between nodes goes one sum of gradients.
MESHES = {1: {}, 8: {"mesh.fsdp": 8}, 64: {"mesh.data": 8, "mesh.fsdp": 8}}
FLAGS = {"model.dropout_rate": 0.0}
# The recipe `:openwebtext`, with fewer parts on a node, whose GPUs sum gradients after each.
RECIPE = {1: {}, 8: {"train.grad_accumulation_steps": 1}}


def rows() -> Iterator[dict[str, Any]]:
    """Yields a row for each size and number of GPUs."""
    for size, windows in SIZES.items():
        for count, mesh in MESHES.items():
            config = workloads.config_named(f"gpt2.py:{size}")
            changes = {**FLAGS, "train.batch_size": windows * count, **mesh}
            config.update_from_flattened_dict(changes)
            yield {"size": size, "gpus": count, "flags": changes, **describe(config, count)}
    for count, changes in RECIPE.items():
        config = workloads.config_named("gpt2.py:openwebtext")
        config.update_from_flattened_dict(changes)
        windows = {"train.batch_size": config.train.batch_size}
        config.data.name = "tiny_shakespeare"  # The program does not depend on the text.
        described = describe(config, count)
        yield {"size": "openwebtext", "gpus": count, "flags": windows | changes, **described}


def describe(config: Any, count: int) -> dict[str, Any]:
    """Returns the figures of the training step of a config on `count` H100s."""
    setup = set_up(config, found=topology.devices(count))
    step, flops = compile_step(setup), setup.flops_per_step().total
    times = roofline.times(step, flops)
    return {
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(plan.state_shapes(setup).params)),
        "flops": flops,
        "peak_bytes": step.peak_bytes,
        "accessed_bytes": step.accessed_bytes(),
        "sent_bytes": sum(one.sent_bytes for one in step.collectives()),
        "seconds": times._asdict(),
        "compile_seconds": round(step.compile_seconds, 1),
    }


def main() -> None:
    """Writes the rows, and prints those of the table of docs/scaling_out.md."""
    made = []
    for row in rows():
        made.append(row)
        times = roofline.Times(**row["seconds"])
        shown = (
            *(row["size"], row["gpus"], row["flags"]["train.batch_size"]),
            f"{row['peak_bytes'] / 1e9:.1f} GB",
            f"{row['sent_bytes'] / 1e9:.2f} GB",
            *(f"{1000 * seconds:.1f}" for seconds in (*times, times.one_by_one)),
        )
        print(f"| {' | '.join(map(str, shown))} |", flush=True)
    report = {"device": topology.H100, "measured": False, "rows": made}
    with open(OUTPUT.value, "w") as file:
        file.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    topology.prepare()
    process.configure_jax()
    errors.run_command(main)
