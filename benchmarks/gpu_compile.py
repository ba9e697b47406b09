"""Training step compiled for one H100, or for eight, without a GPU: `make gpu-compile`.

Prints a row for each of ROWS, or for the experiment of --config, whose keys are flags as in
main.py: attention kernels forward and backward, matrix products by the types of their factors, and
the peak memory that XLA plans. benchmarks/gpu_check.py measures on a GPU.
"""

import json
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before JAX is imported: programs run on the CPU, but the H100 has fast bfloat16.
os.environ |= {"JAX_PLATFORMS": "cpu", "FAST_BFLOAT16": "true"}

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags
from rich.console import Console
from rich.table import Table

from benchmarks import deviceless, workloads
from config import check
from runtime import errors, process
from training import plan
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
    parts = set_up(config, found=deviceless.devices(count_of(config.mesh)))
    started = time.perf_counter()
    with deviceless.compiling():
        args = plan.step_shapes(parts)
        compiled = parts.lower_train_steps(args).compile()
    text = compiled.as_text()
    return {
        "device": deviceless.H100,
        "num_devices": parts.mesh.size,
        "measured": False,
        "precision": parts.precision,
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(args[0].params)),
        "flops": parts.flops_per_step().gradient,
        "attention_forward": text.count('"__cudnn$fmhaSoftmax"'),
        "attention_backward": text.count('"__cudnn$fmhaSoftmaxBackward"'),
        "products": dict(Counter(factor_types(text))),
        "collectives": collectives(text),
        "peak_bytes": compiled.memory_analysis().peak_memory_in_bytes,
        "compile_seconds": round(time.perf_counter() - started, 1),
    }


def count_of(mesh: ConfigDict) -> int:
    """Returns the number of GPUs that a config's `mesh` names; its -1 is one."""
    return math.prod(abs(size) for size in mesh.values())


# Communication in XLA's text, and the types and shapes of its results; "-start" begins one that
# runs beside other work.
COLLECTIVE = re.compile(
    r"= (\(?[^=]*?\)?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "f16": 2, "s8": 1}


def collectives(text: str) -> dict[str, int]:
    """Returns the bytes that each kind of communication in a compiled program results in."""
    found: Counter[str] = Counter()
    # Long tuples hold comments such as /*index=5*/.
    for results, kind, begins in COLLECTIVE.findall(re.sub(r"/\*.*?\*/", "", text)):
        arrays = re.findall(r"(\w+)\[([0-9,]*)\]", results)
        sizes = [
            BYTES[dtype] * math.prod(map(int, filter(None, shape.split(","))))
            for dtype, shape in arrays
        ]
        # One that begins returns its operands, too, and first.
        found[kind] += sum(sizes[len(sizes) // 2 :] if begins else sizes)
    return dict(found)


# A matrix product in XLA's text: alone or in a fusion for Triton, or as a call of cuBLAS.
PRODUCT = re.compile(r' dot\(([^)]*)\)| custom-call\(([^)]*)\), custom_call_target="__cublas')


def factor_types(text: str) -> Iterator[str]:
    """Yields the factors' types of each matrix product in a compiled program.

    "bf16" for two of the same type, "bf16 f32" for different ones.
    """
    types: dict[str, str] = {}
    for line in text.splitlines():
        if line.endswith("{"):
            types = {}  # Names are local to a computation.
        if defined := re.match(r"\s*(?:ROOT )?%(\S+) = \(?(\w+)\[", line):
            types[defined[1]] = defined[2]
        if product := PRODUCT.search(line):
            factors = re.findall(r"%([^\s,)]+)", product[1] or product[2])[:2]
            yield " ".join(dict.fromkeys(types[factor] for factor in factors))


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
    if reason := deviceless.unavailable_reason():
        raise errors.UserError(
            f"JAX cannot compile for a GPU here ({reason}): run make gpu-compile, which sets up an "
            "environment that can"
        )
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
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {deviceless.XLA_FLAGS}".strip()
    process.configure_jax()
    errors.run_command(main, explain=check.explain_flags)
