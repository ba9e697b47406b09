"""Finds the best size, batch, context and learning rate of each stage for each budget of FLOPs.

    python sweeps/tune_stages.py --workdir=runs/comparison/search --workers=2

Runs the search of tune_stages.yaml once for each budget, optimizer and stage, at a budget always
with as many runs. The smallest budget's ranges are the file's; those of the next lie around the
point that was found at the one before, and its first run tries that point. Writes the points to
experiments/comparison.json, from which the presets `:flops-1e11-adamw` come, all that was tried to
docs/measured/tune_stages.json, and the presets to compare_stages_equal_flops.yaml; the points of
other budgets and stages stay. Stopped or killed, it resumes with the same command.
"""

import json
import math
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

import yaml
from absl import flags

from experiments import comparison
from reporting import frontier
from runtime import errors, process
from runtime.files import atomic_write
from sweep_engine import search, sweep_file
from sweep_engine.journal import FINISHED, Journal, SweepRun
from sweep_engine.runner import SweepRunner

WORKDIR = flags.DEFINE_string("workdir", "runs/comparison/search", "Folder of the searches.")
WORKERS = flags.DEFINE_integer("workers", 2, "Runs at a time.", lower_bound=1)
BUDGETS = flags.DEFINE_list("budgets", list(comparison.BUDGETS), "Budgets, the smallest first.")
STAGES = flags.DEFINE_list("stages", list(comparison.STAGES), "Stages to search for.")
OPTIMIZERS = flags.DEFINE_list("optimizers", list(comparison.OPTIMIZERS), "With which optimizers.")
COUNT = flags.DEFINE_integer(
    "count", 0, "Runs of each search. Default: 24, fewer at large budgets.", lower_bound=0
)

ROOT = Path(__file__).parents[1]
FILE = ROOT / "sweeps/tune_stages.yaml"
TRIED = ROOT / "docs/measured/tune_stages.json"
SWEEP = ROOT / "sweeps/compare_stages_equal_flops.yaml"
PREFIX = "config."
BATCH, CONTEXT, RATE, ADAM_RATE = (PREFIX + key for key in comparison.SEARCHED)
# Powers of two from which batches and contexts come.
POWERS = [2**n for n in range(1, 11)]
# Ranges of the learning rates at the smallest budget; AdamW's is in the file.
MUON_RATES = {RATE: (0.005, 0.1), ADAM_RATE: (0.003, 0.1)}
# Runs of a search where a run takes long; elsewhere the file's run_cap.
RUNS = {"1e12": 16, "3e12": 12, "1e13": 8, "3e13": 6}
# From this budget on, where runs are few, they stay closer to the point before. Sizes two below it
# were never chosen, and for equal FLOPs the smallest take several times as long.
CLOSER = 3e12
# A later budget's range: the rate found before, divided and multiplied by this.
SPREAD = 2.5

Point = dict[str, Any]


def main() -> None:
    check_flags()
    template = yaml.safe_load(FILE.read_text())
    found = read_json(comparison.CHOSEN, {})
    tried = read_json(TRIED, [])
    for budget in map(frontier.show, sorted(map(float, BUDGETS.value))):
        for optimizer in OPTIMIZERS.value:
            for stage in STAGES.value:
                labels = {"optimizer": optimizer, "stage": stage, "budget": budget}
                points = found.setdefault(optimizer, {}).setdefault(stage, {})
                tried = [one for one in tried if not labels.items() <= one.items()]
                if trials := search_for(template, **labels, points=points):
                    tried.append({**labels, "trials": trials})
                write(comparison.CHOSEN, as_json(found))
                write(TRIED, as_json(tried))
                write(SWEEP, with_points(SWEEP.read_text(), found))


def search_for(
    template: dict[str, Any], optimizer: str, stage: str, budget: str, points: dict[str, Point]
) -> list[Point]:
    """Searches a stage's best point for a budget, puts it into `points`, and returns all trials.

    A stage at its floor gets no point and no trials.
    """
    points.pop(budget, None)
    smaller = sorted((one for one in points if float(one) < float(budget)), key=float)
    before = [points[one] for one in smaller]
    if is_at_floor(before):
        return []
    center = before[-1] if before else None
    content = search_file(template, stage, optimizer, budget, center)
    runs = run_search(content, Path(WORKDIR.value, optimizer, f"{stage}-{budget}"), center)
    trials = [as_point(run) for run in runs]
    points[budget] = best_of(trials, f"{stage} with {optimizer} at {budget}")
    return trials


def check_flags() -> None:
    """Raises UserError for budgets that are no numbers, and for unknown stages and optimizers."""
    for budget in BUDGETS.value:
        try:
            is_positive = 0 < float(budget) < math.inf
        except ValueError:
            is_positive = False
        if not is_positive:
            raise errors.UserError(f"--budgets={budget}: expected FLOPs such as 1e12")
    for flag, known in ((STAGES, comparison.STAGES), (OPTIMIZERS, comparison.OPTIMIZERS)):
        for name in flag.value:
            if name not in known:
                raise errors.UserError(f"--{flag.name}={name}: expected some of {', '.join(known)}")


def is_at_floor(points: Sequence[Point]) -> bool:
    """Returns True if the loss hardly fell from the last budget but one to the last."""
    losses = [point["val/loss"] for point in points]
    return len(losses) > 1 and losses[-2] - losses[-1] < comparison.FLOOR


def search_file(
    template: dict[str, Any], stage: str, optimizer: str, budget: str, center: Point | None
) -> dict[str, Any]:
    """Returns the sweep file of one search, around the point `center` if there is one."""
    parameters = dict(template["parameters"])
    sizes: Sequence[int] = (1, 2, 3, 4)
    if optimizer == "muon":
        parameters |= {name: log_uniform(*bounds) for name, bounds in MUON_RATES.items()}
    if center:
        reach = 1 if float(budget) >= CLOSER else 2
        first, last = center["size"] - reach, center["size"] + 2
        sizes = range(max(first, 1), min(last, comparison.NUM_SIZES) + 1)
        for name in (BATCH, CONTEXT):
            value = center[name.removeprefix(PREFIX)]
            parameters[name] = {"values": neighbours(POWERS, value, reach)}
        for name in (name for name in (RATE, ADAM_RATE) if name in parameters):
            rate = center[name.removeprefix(PREFIX)]
            parameters[name] = log_uniform(rate / SPREAD, rate * SPREAD)
    parameters["config"] = {
        "values": [f"experiments/{stage}.py:tune-{optimizer}+size-{size}" for size in sizes]
    }
    command = [
        f"--config.train.flops={budget}" if word.startswith("--config.train.flops=") else word
        for word in template["command"]
    ]
    runs = RUNS.get(budget, template["run_cap"])
    return {**template, "parameters": parameters, "command": command, "run_cap": runs}


def neighbours(values: Sequence[int], value: int, reach: int) -> list[int]:
    """Returns `value` and up to `reach` values on each side, of ascending `values`."""
    at = values.index(value)
    return list(values[max(at - reach, 0) : at + reach + 1])


def log_uniform(low: float, high: float) -> dict[str, Any]:
    """Returns a parameter of a sweep file."""
    return {"distribution": "log_uniform_values", "min": low, "max": high}


def run_search(content: dict[str, Any], folder: Path, center: Point | None) -> list[SweepRun]:
    """Runs a search to its end, from where it stopped, and returns its runs, `center` first."""
    sweep = sweep_file.parse(content)
    journal = Journal(folder, yaml.safe_dump(content), 0, "", secrets.token_hex(4))
    if center and not journal.runs:
        point = place_of(center, sweep)
        journal.propose(secrets.token_hex(4), search.values_at(sweep, point), point)
    total = search.num_runs(sweep, COUNT.value)
    if sum(bool(run.outcome) for run in journal.runs) < total:
        SweepRunner(sweep, journal, total, WORKERS.value, retries=2).run()
    return journal.runs


def place_of(center: Point, sweep: sweep_file.SweepFile) -> dict[str, float]:
    """Returns the place of the point `center` in the ranges around it, as a search has it."""
    place: dict[str, float] = {}
    for parameter in sweep.parameters:
        values = parameter.options.get("values")
        if values is None:
            place[parameter.name] = 0.5  # The middle of a log-uniform range.
        elif parameter.name == "config":
            (place["config"],) = [
                i for i, one in enumerate(values) if one.endswith(f"size-{center['size']}")
            ]
        else:
            place[parameter.name] = values.index(center[parameter.name.removeprefix(PREFIX)])
    return place


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


def read_json(path: Path, default: Any) -> Any:
    """Returns the content of a file of this command's, or `default` if there is none.

    Raises UserError for a broken file.
    """
    try:
        return json.loads(path.read_text()) if path.exists() else default
    except ValueError as error:
        raise errors.UserError(f"{path} can't be read: {error}; restore or delete it") from None


def as_json(content: Any) -> str:
    """Returns `content` as JSON whose versions can be compared line by line."""
    return json.dumps(content, indent=1) + "\n"


def with_points(text: str, found: dict[str, dict[str, dict[str, Point]]]) -> str:
    """Returns a sweep file's text with the points that were found as its experiments."""
    experiments = [
        f"      - experiments/{stage}.py:flops-{budget}-{optimizer}"
        for optimizer, stages in found.items()
        for budget in sorted({one for points in stages.values() for one in points}, key=float)
        for stage, points in stages.items()
        if budget in points
    ]
    kept = [line for line in text.splitlines() if not line.startswith("      - experiments/")]
    at = kept.index("    values:") + 1
    kept[at:at] = ["      - experiments/bigram.py", *experiments]
    return "\n".join(kept) + "\n"


def write(path: Path, text: str) -> None:
    """Writes a file of the checkout. Raises Failed if it can't."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise errors.Failed(
            f"{path} can't be written: {error.strerror}; make room, then the same command continues"
        ) from None


if __name__ == "__main__":
    process.set_up_malloc()
    errors.run_command(main)
