"""Times the training step of each stage against the same model in PyTorch: `make bench`.

Sizes, batch and precision are those of the experiments; one that does not train in float32 is
timed in float32, too. Prints a table and writes it, with what the machine is, to
benchmarks/results.json. Times are milliseconds a step, medians over the rounds; the ratio is the
median of each round's, above 1 where ours is faster.
"""

import importlib
import json
import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

import errors
import runtime
from benchmarks import rounds
from input_pipeline import batches, corpus

STAGES = ["bigram", "self_attention", "multi_head_attention", "transformer_decoder", "gpt2"]

CHOSEN = flags.DEFINE_list("stages", STAGES, "Which stages.")
PRESET = flags.DEFINE_string("preset", "", "Preset of the experiments, such as smoke.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns that each side gets.")
SECONDS = flags.DEFINE_float("seconds", 0.5, "How long a turn takes at least.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results.json", "The file to write.")

# Where there is no terminal: a pipe or a file.
WIDTH = 150


def main() -> None:
    if unknown := set(CHOSEN.value) - set(STAGES):
        raise errors.UserError(f"--stages={','.join(unknown)}: expected some of {','.join(STAGES)}")
    if ROUNDS.value < 1 or SECONDS.value <= 0:
        raise errors.UserError(
            f"--rounds={ROUNDS.value} --seconds={SECONDS.value}: expected 1 or more, and above 0"
        )
    output = Path(OUTPUT.value)
    # Known before the minutes that measuring takes.
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise errors.UserError(f"--output={output} is no file in a folder that can be written")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    rows = []
    for stage in CHOSEN.value:
        config = importlib.import_module(f"experiments.{stage}").get_config(PRESET.value)
        for precision in dict.fromkeys([config.train.precision, "float32"]):
            config.train.precision = precision
            with console.status(f"{stage}, {precision}: ours and PyTorch in turn"):
                rows.append(measure(config))
    output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    console.print(table(rows))
    console.print(f"ratio: PyTorch's time over ours; with the machine's facts in {output}")


def measure(config: ConfigDict) -> dict[str, str | float | int]:
    """The row for the training step that `config` describes."""
    with tempfile.TemporaryDirectory() as folder:
        work(config).save(Path(folder))
        with (
            rounds.start("benchmarks.ours", folder) as ours,
            rounds.start("benchmarks.peers", folder) as peer,
        ):
            times = rounds.interleave(ours, peer, rounds=ROUNDS.value, at_least=SECONDS.value)
    steps = config.train.steps_per_dispatch
    figures = rounds.compare(*[[1e3 * one / steps for one in side] for side in times])
    return {
        "work": f"training step, {config.model.name}",
        **ours.facts,
        **peer.facts,
        "unit": "ms/step",
        **figures,
    }


def work(config: ConfigDict) -> rounds.Work:
    """The first dispatch of the run that `config` describes."""
    data = corpus.load(config.data)
    _, batches_KBT = next(
        batches.train_batches(
            data.train,
            seed=config.seed,
            batch_size=config.train.batch_size,
            context_length=config.model.context_length,
            steps_per_dispatch=config.train.steps_per_dispatch,
            start_step=0,
            num_steps=config.train.num_steps,
        )
    )
    return rounds.Work(config, data.tokenizer.vocab_size, batches_KBT)


def machine() -> dict[str, str | int | dict]:
    """What the times depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "numpy", "torch")},
    }


def table(rows: list[dict]) -> Table:
    """The rows for rich to print."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("work", "precision"):
        made.add_column(column)
    for column in ("ours", "PyTorch", "unit", "ratio", "lowest", "highest", "runs"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("PyTorch's variant")
    for row in rows:
        made.add_row(
            row["work"],
            row["precision"],
            f"{row['ours']:.4g}",
            f"{row['peer']:.4g}",
            row["unit"],
            *[f"{row[key]:.2f}" for key in ("ratio", "lowest_ratio", "highest_ratio")],
            str(row["runs"]),
            row["peer_variant"],
        )
    return made


if __name__ == "__main__":
    runtime.set_up_malloc()  # The workers inherit it: both sides.
    errors.run_command(main)
