"""Training step compiled for one H100, or for eight, without a GPU: `make gpu-compile`.

Prints a row for each of ROWS, or for the experiment of --config, whose keys are flags as in
main.py: attention kernels forward and backward, matrix products by the types of their factors, and
the peak memory that XLA plans. benchmarks/gpu_check.py measures on a GPU.
"""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # Before JAX is imported.

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags
from rich.console import Console
from rich.table import Table

from benchmarks import workloads
from config import check
from runtime import errors, process
from training import plan, topology
from training.compiled import compile_step, factor_types
from training.setup import check_config, set_up

# GPT-2 small as nanoGPT trains it on one GPU: 12 windows of 1,024 tokens, no dropout.
SMALL = {"train.batch_size": 12, "model.dropout_rate": 0.0}
CHUNKS = {"train.loss_chunks": 8}
REMAT = {"train.remat": "blocks"}
# The same on each of eight GPUs: whole models, or a part of every matrix.
DATA = {**SMALL, "train.batch_size": 96, "mesh.data": 8}
FSDP = {**SMALL, "train.batch_size": 96, "mesh.fsdp": 8}
ROWS = [
    ("bigram.py", {}),
    ("self_attention.py", {}),
    ("multi_head_attention.py", {}),
    ("transformer_decoder.py", {}),
    ("gpt2.py", {}),
    ("gpt2.py:baby", {}),
    ("gpt2.py:small", SMALL),
    ("gpt2.py:small", {**SMALL, **CHUNKS}),
    ("gpt2.py:small", {**SMALL, **CHUNKS, **REMAT}),
    ("gpt2.py:small", DATA),
    ("gpt2.py:small", FSDP),
    ("gpt2.py:small", {**FSDP, "optimizer.name": "muon"}),
]

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment file, with a preset after a colon; its keys are flags too."
)
AS_JSON = flags.DEFINE_bool("json", False, "Print each row as a line of JSON instead of the table.")


def describe(config: ConfigDict) -> dict[str, Any]:
    """Compiles the training step of a config for H100s and returns the row's figures.

    Bytes and kernels are those of one of them.

    Raises UserError for a wrong config or text.
    """
    check_config(config)
    setup = set_up(config, found=topology.devices(count_of(config.mesh)))
    step = compile_step(setup)
    sent: Counter[str] = Counter()
    for one in step.collectives():
        sent[one.kind] += one.result_bytes
    return {
        "device": topology.H100,
        "num_devices": step.num_devices,
        "measured": False,
        "precision": setup.precision,
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(plan.state_shapes(setup).params)),
        "flops": setup.flops_per_step().gradient,
        "attention_forward": step.text.count('"__cudnn$fmhaSoftmax"'),
        "attention_backward": step.text.count('"__cudnn$fmhaSoftmaxBackward"'),
        "products": dict(Counter(factor_types(step.text))),
        "collectives": dict(sent),
        "peak_bytes": step.peak_bytes,
        "compile_seconds": round(step.compile_seconds, 1),
    }


def count_of(mesh: ConfigDict) -> int:
    """Returns the number of GPUs that a config's `mesh` names; its -1 is one."""
    return math.prod(abs(size) for size in mesh.values())


def rows() -> Iterator[dict[str, Any]]:
    """Yields the row of --config, or else of ROWS, each with its experiment's name."""
    if CONFIG.value:
        given = [word.removeprefix("--config.") for word in sys.argv if "--config." in word]
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        yield {"experiment": " ".join([Path(name).name, *given]), **describe(CONFIG.value)}
        return
    for experiment, changes in ROWS:
        config = workloads.config_named(experiment)
        config.update_from_flattened_dict(changes)
        name = " ".join([experiment, *(f"{key}={value}" for key, value in changes.items())])
        yield {"experiment": name, **describe(config)}


def main() -> None:
    """Prints the rows as they are compiled."""
    topology.devices()  # Refuses at once where there is nothing to compile with.
    if AS_JSON.value:
        for row in rows():
            print(json.dumps(row), flush=True)
        return
    columns = ("one update on an H100", "FLOPs", "attention", "products", "peak GB")
    columns += ("sent GB", "compiled, s")
    table = Table(*columns, title="compiled, not measured")
    for row in rows():
        kernels = f"{row['attention_forward']} + {row['attention_backward']}"
        products = ", ".join(f"{count} {kind}" for kind, count in row["products"].items())
        peak = f"{row['peak_bytes'] / 1e9:.2f}"
        sent = f"{sum(row['collectives'].values()) / 1e9:.2f}"
        seconds = f"{row['compile_seconds']}"
        flops = f"{row['flops']:.2e}"
        table.add_row(row["experiment"], flops, kernels, products, peak, sent, seconds)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    topology.prepare()
    process.configure_jax()
    errors.run_command(main, explain=check.explain_flags)
