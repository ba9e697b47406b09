"""Induction, as it is learned: `make texts` runs this after its sweep.

Trains stage 4 on the made text `new_table`, with two blocks and with one, with many evaluations.
Writes docs/measured/induction.json: the loss and the heads' scores by step, and the loss without
each head. A finished run is not trained again.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

import harness
import run_folder
from benchmarks import checks, commands, results
from input_pipeline.pairs import Records
from inspection import induction
from runtime import errors, process

EXPERIMENT = "transformer_decoder.py:text-new_table"
EVERY = 20  # Updates between evaluations.
SPAN = 100  # Updates in which the greatest fall of the loss is looked for.
FLAGS = (
    f"--config.eval.every_steps={EVERY}",
    "--config.sample.every_steps=0",
    "--config.checkpoint.every_minutes=0",
    "--config.checkpoint.resume=true",
)


class Form(NamedTuple):
    """Number of blocks, and of snapshots to keep."""

    num_layers: int
    snapshots: int


FORMS = {"two_blocks": Form(2, 60), "one_block": Form(1, 0)}


def main() -> None:
    """Trains what is not trained yet, measures it, and writes the file."""
    checks.check_output(flags.FLAGS.output)
    process.configure_jax()
    experiment = EXPERIMENT + f"+{flags.FLAGS.preset}" * bool(flags.FLAGS.preset)
    training = [
        commands.start_training(
            experiment,
            Path(flags.FLAGS.workdir).absolute() / name,
            f"--config.model.num_layers={form.num_layers}",
            f"--config.checkpoint.snapshots={form.snapshots}",
            *FLAGS,
        )
        for name, form in FORMS.items()
    ]
    for each in training:
        commands.finish(each)
    runs = {name: measure(Path(flags.FLAGS.workdir) / name) for name in FORMS}
    machine = {**results.host(), "versions": results.versions("jax", "flax", "numpy")}
    content = {"machine": machine, "experiment": experiment, "runs": runs}
    run_folder.write_json(Path(flags.FLAGS.output), content)
    for line in told(runs):
        print(line)


def measure(workdir: Path) -> dict[str, Any]:
    """Returns the losses of a run by step, their greatest fall, and the study of its heads."""
    run = harness.open_run(workdir, "latest")
    val = run.splits()["val"]
    assert isinstance(val, Records)
    lines = list(run_folder.read_lines(workdir / run_folder.METRICS))
    curve = [(line["step"], line["val/loss"]) for line in lines if "val/loss" in line]
    context_length = run.config.model.context_length
    marked = val.windows(np.arange(induction.NUM_WINDOWS), context_length)
    return {
        "num_layers": run.config.model.num_layers,
        "num_steps": run.step,
        "train_flops": run.summary["train_flops"],
        "seconds": run.summary["seconds"],
        "val/loss": curve[-1][1],
        "curve": {"step": [step for step, _ in curve], "val/loss": [loss for _, loss in curve]},
        "greatest_fall": greatest_fall(curve),
        **induction.study(run.model, run.params, run.snapshots(), marked),
    }


def greatest_fall(curve: list[tuple[int, float]]) -> dict[str, float]:
    """Returns the span of at most SPAN updates in which the loss falls most, and its losses."""
    spans = [
        (before, after)
        for place, before in enumerate(curve)
        for after in curve[place + 1 :]
        if after[0] - before[0] <= SPAN
    ]
    (first, high), (last, low) = max(
        spans or pairwise(curve), key=lambda span: span[0][1] - span[1][1]
    )
    return {"from_step": first, "to_step": last, "from_loss": high, "to_loss": low}


def told(runs: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the answers in sentences."""
    two, one = (runs[name] for name in FORMS)
    fall = two["greatest_fall"]
    of_first = [row for row in two["heads"] if row["layer"] == 1]
    of_last = [row for row in two["heads"] if row["layer"] == two["num_layers"]]
    previous = max(of_first, key=lambda row: row["previous"])
    finder = max(of_last, key=lambda row: row["induction"])
    return [
        f"two blocks: val/loss {two['val/loss']:.4f} after {two['num_steps']} updates; from update "
        f"{fall['from_step']} to {fall['to_step']} it falls from {fall['from_loss']:.3f} to "
        f"{fall['to_loss']:.3f}",
        f"one block: val/loss {one['val/loss']:.4f} after {one['num_steps']}",
        f"head {previous['head']} of block 1 has {previous['previous']:.2f} of its weight on the "
        f"previous letter; switched off, the loss rises by {previous['cost']:.3f} nats",
        f"head {finder['head']} of block 2 has {finder['induction']:.2f} of its weight on the "
        f"answer; switched off, the loss rises by {finder['cost']:.3f} nats",
    ]


if __name__ == "__main__":
    # Here, so that tests import this file beside others with the same flags.
    flags.DEFINE_string("workdir", "runs/induction", "Folder of the runs.")
    measured = str(commands.ROOT / "docs/measured/induction.json")
    flags.DEFINE_string("output", measured, "File to write.")
    flags.DEFINE_string("preset", "", "Preset to add, such as smoke.")
    errors.run_command(main)
