"""Finds the best size, batch, context and learning rate of each stage for each budget of FLOPs.

    python sweeps/tune_stages.py --workdir=runs/comparison/search --workers=2

Runs the search of tune_stages.yaml once for each budget, optimizer and stage, always with as many
runs. The smallest budget's ranges are the file's; those of the next lie around the point that was
found at the one before. Writes the points to experiments/comparison.json, from which the presets
`:flops-1e12-muon` come, and all that was tried to docs/measured/tune_stages.json. Stopped or
killed, it resumes with the same command.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

import yaml
from absl import flags

from experiments import comparison
from runtime import errors, process
from runtime.files import atomic_write
from sweep_engine import search, sweep_file
from sweep_engine.journal import FINISHED, Journal, SweepRun
from sweep_engine.runner import SweepRunner

WORKDIR = flags.DEFINE_string("workdir", "runs/comparison/search", "Folder of the searches.")
WORKERS = flags.DEFINE_integer("workers", 2, "Runs at a time.", lower_bound=1)
BUDGETS = flags.DEFINE_list("budgets", list(comparison.BUDGETS), "Budgets, the smallest first.")

FILE = Path("sweeps/tune_stages.yaml")
TRIED = Path("docs/measured/tune_stages.json")
PREFIX = "config."
BATCH, CONTEXT, RATE, ADAM_RATE = (PREFIX + key for key in comparison.SEARCHED)
# Powers of two from which batches and contexts come.
POWERS = [2**n for n in range(1, 11)]
# Ranges of the learning rates at the smallest budget; AdamW's is in the file.
MUON_RATES = {RATE: (0.01, 0.06), ADAM_RATE: (0.002, 0.02)}
# A later budget's range: the rate found before, divided and multiplied by this.
SPREAD = 2.5
# A stage whose loss fell by less than this from one budget to the next is at its floor.
FLOOR = 0.003

Point = dict[str, Any]


def main() -> None:
    template = yaml.safe_load(FILE.read_text())
    folder = Path(WORKDIR.value)
    found: dict[tuple[str, str], dict[str, Point]] = {}
    tried: list[dict[str, Any]] = []
    for budget in BUDGETS.value:
        for optimizer in comparison.OPTIMIZERS:
            for stage in comparison.STAGES:
                points = found.setdefault((optimizer, stage), {})
                if is_at_floor(points):
                    continue
                before = next(reversed(points.values()), None)
                content = search_file(template, stage, optimizer, budget, before)
                runs = run_search(content, folder / optimizer / f"{stage}-{budget}")
                trials = [as_point(run) for run in runs]
                points[budget] = best_of(trials, f"{stage} with {optimizer} at {budget}")
                labels = {"optimizer": optimizer, "stage": stage, "budget": budget}
                tried.append({**labels, "trials": trials})
                write(found, tried)


def is_at_floor(points: dict[str, Point]) -> bool:
    """Returns True if the last budget's loss is hardly below that of the one before."""
    losses = [point["val/loss"] for point in points.values()]
    return len(losses) > 1 and losses[-2] - losses[-1] < FLOOR


def search_file(
    template: dict[str, Any], stage: str, optimizer: str, budget: str, before: Point | None
) -> dict[str, Any]:
    """Returns the sweep file of one search: around the point `before`, if there is one."""
    parameters = dict(template["parameters"])
    sizes: Sequence[int] = range(1, 4)
    if optimizer == "muon":
        parameters |= {name: log_uniform(*bounds) for name, bounds in MUON_RATES.items()}
    if before:
        sizes = neighbours(range(1, comparison.NUM_SIZES + 1), before["size"])
        for name in (BATCH, CONTEXT):
            parameters[name] = {"values": neighbours(POWERS, before[name.removeprefix(PREFIX)])}
        for name in {RATE, ADAM_RATE} & parameters.keys():
            rate = before[name.removeprefix(PREFIX)]
            parameters[name] = log_uniform(rate / SPREAD, rate * SPREAD)
    parameters["config"] = {
        "values": [f"experiments/{stage}.py:tune-{optimizer}+size-{size}" for size in sizes]
    }
    command = [
        f"--config.train.flops={budget}" if word.startswith("--config.train.flops=") else word
        for word in template["command"]
    ]
    return {**template, "parameters": parameters, "command": command}


def neighbours(values: Sequence[int], value: int) -> list[int]:
    """Returns `value` and the ones beside it, in ascending `values`."""
    at = values.index(value)
    return list(values[max(at - 1, 0) : at + 2])


def log_uniform(low: float, high: float) -> dict[str, Any]:
    """Returns a parameter of a sweep file."""
    return {"distribution": "log_uniform_values", "min": low, "max": high}


def run_search(content: dict[str, Any], folder: Path) -> list[SweepRun]:
    """Runs a search to its end, from where it stopped, and returns its runs."""
    sweep = sweep_file.parse(content)
    # An id of its own and yet the same each time.
    journal = Journal(folder, yaml.safe_dump(content), 0, "", folder.name)
    total = search.num_runs(sweep, 0)
    if sum(bool(run.outcome) for run in journal.runs) < total:
        SweepRunner(sweep, journal, total, WORKERS.value, retries=2).run()
    return journal.runs


def as_point(run: SweepRun) -> Point:
    """Returns what a run tried, and its loss; None where it diverged or failed."""
    size = int(run.parameters["config"].rpartition("-")[2])
    searched = {
        name.removeprefix(PREFIX): float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in run.parameters.items()
        if name != "config"
    }
    loss = run.value if run.outcome == FINISHED else None
    return {"size": size, **searched, "val/loss": loss and float(f"{loss:.5g}")}


def best_of(trials: Sequence[Point], name: str) -> Point:
    """Returns the point with the lowest loss. Raises Failed if no run has one."""
    best = min(trials, key=lambda point: point["val/loss"] or math.inf)
    if best["val/loss"] is None:
        raise errors.Failed(f"no run of the search for {name} ended with a loss: see its logs")
    return best


def write(found: dict[tuple[str, str], dict[str, Point]], tried: list[dict[str, Any]]) -> None:
    """Writes the points that were found, and all that was tried."""
    chosen: dict[str, dict[str, dict[str, Point]]] = {}
    for (optimizer, stage), points in found.items():
        chosen.setdefault(optimizer, {})[stage] = points
    TRIED.parent.mkdir(exist_ok=True)
    for path, content in ((comparison.CHOSEN, chosen), (TRIED, tried)):
        with atomic_write(path) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    process.set_up_malloc()
    errors.run_command(main)
