"""Finds the best size, batch, context and learning rate of each stage for each budget of FLOPs.

    python sweeps/tune_stages.py --workdir=runs/comparison/search --workers=2

Runs the search of tune_stages.yaml once for each budget, optimizer and stage, at a budget always
with as many runs. The smallest budget's ranges are the file's; those of the next lie around the
best point of the search before, and its first run tries that point. Then stages 2 and 3, and 4 and
5, try each other's best point, so that none owes its loss to a luckier search.

Writes all that was tried to docs/measured/tune_stages.json, the best of it to
experiments/comparison.json, from which the presets `:flops-1e11-adamw` come, and the presets to
compare_stages_equal_flops.yaml; what was tried for other budgets and stages stays. Stopped or
killed, it resumes with the same command.
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

from runtime import process

if __name__ == "__main__":
    process.require_packages()
    process.set_up_malloc()  # First of all: what was imported would be imported again.

import yaml
from absl import flags

from experiments import comparison
from reporting import frontier
from runtime import errors
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
RUNS = {"1e12": 16, "3e12": 12, "1e13": 8}
# So few runs, or fewer, stay closer to the point before. Sizes two below it were never chosen, and
# for equal FLOPs the smallest take several times as long.
FEW = 12
# A later budget's range: the rate found before, divided and multiplied by this.
SPREAD = 2.5

Point = dict[str, Any]
# By optimizer, stage and budget: the trials of the search, and the one of the other stage's point.
Tried = dict[str, dict[str, dict[str, dict[str, list[Point]]]]]


def main() -> None:
    check_flags()
    template = yaml.safe_load(FILE.read_text())
    tried: Tried = read_json(TRIED, {})
    for budget in map(frontier.show, sorted(map(float, BUDGETS.value))):
        for optimizer in OPTIMIZERS.value:
            stages = tried.setdefault(optimizer, {})
            for stage in STAGES.value:
                searches = stages.setdefault(stage, {})
                before = best_before(budget, searches)
                searches.pop(budget, None)
                if not is_at_floor(before):
                    trials = search_for(template, stage, optimizer, budget, before)
                    searches[budget] = {"search": trials, "exchange": []}
                keep(tried)
            for stage in STAGES.value:
                other = stages.get(comparison.SAME_SIZES[stage], {})
                if budget in stages[stage] and budget in other:
                    point = best_of(other[budget]["search"])
                    made = try_point(template, stage, optimizer, budget, point)
                    stages[stage][budget]["exchange"] = [made]
                    keep(tried)


def best_before(budget: str, searches: dict[str, dict[str, list[Point]]]) -> list[Point]:
    """Returns the best points of a stage's searches at smaller budgets, the smallest first."""
    smaller = sorted((one for one in searches if float(one) < float(budget)), key=float)
    return [best_of(searches[one]["search"]) for one in smaller]


def search_for(
    template: dict[str, Any], stage: str, optimizer: str, budget: str, before: Sequence[Point]
) -> list[Point]:
    """Runs a stage's search for a budget, around the last point of `before`; returns its trials."""
    center = before[-1] if before else None
    content = search_file(template, stage, optimizer, budget, center)
    trials = run_trials(content, Path(WORKDIR.value, optimizer, f"{stage}-{budget}"), center)
    if all(trial["val/loss"] is None for trial in trials):
        raise errors.Failed(
            f"no run of the search for {stage} with {optimizer} at {budget} ended with a loss: "
            "see its logs"
        )
    return trials


def try_point(
    template: dict[str, Any], stage: str, optimizer: str, budget: str, point: Point
) -> Point:
    """Runs a stage with the point of another one; returns it with this stage's loss."""
    values = {PREFIX + key: point[key] for key in comparison.SEARCHED if key in point}
    values["config"] = experiment(stage, optimizer, point["size"])
    content = {
        **template,
        "method": "grid",
        "parameters": {name: {"value": value} for name, value in values.items()},
        "command": command_for(template, budget),
    }
    folder = Path(WORKDIR.value, optimizer, f"{stage}-{budget}-exchange")
    (trial,) = run_trials(content, folder)
    return trial


def best_of(trials: Sequence[Point]) -> Point:
    """Returns the point with the lowest loss."""
    return min(trials, key=lambda point: point["val/loss"] or math.inf)


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
    runs = RUNS.get(budget, template["run_cap"])
    sizes: Sequence[int] = (1, 2, 3, 4)
    if optimizer == "muon":
        parameters |= {name: log_uniform(*bounds) for name, bounds in MUON_RATES.items()}
    if center:
        reach = 1 if runs <= FEW else 2
        first, last = center["size"] - reach, center["size"] + 2
        sizes = range(max(first, 1), min(last, comparison.NUM_SIZES) + 1)
        for name in (BATCH, CONTEXT):
            value = center[name.removeprefix(PREFIX)]
            parameters[name] = {"values": neighbours(POWERS, value, reach)}
        for name in (name for name in (RATE, ADAM_RATE) if name in parameters):
            rate = center[name.removeprefix(PREFIX)]
            parameters[name] = log_uniform(rate / SPREAD, rate * SPREAD)
    parameters["config"] = {"values": [experiment(stage, optimizer, size) for size in sizes]}
    command = command_for(template, budget)
    return {**template, "parameters": parameters, "command": command, "run_cap": runs}


def experiment(stage: str, optimizer: str, size: int) -> str:
    """Returns what all trials of a size have in common, as --config names it."""
    return f"experiments/{stage}.py:tune-{optimizer}+size-{size}"


def command_for(template: dict[str, Any], budget: str) -> list[str]:
    """Returns the sweep file's command with another budget."""
    return [
        f"--config.train.flops={budget}" if word.startswith("--config.train.flops=") else word
        for word in template["command"]
    ]


def neighbours(values: Sequence[int], value: int, reach: int) -> list[int]:
    """Returns `value` and up to `reach` values on each side, of ascending `values`."""
    at = values.index(value)
    return list(values[max(at - reach, 0) : at + reach + 1])


def log_uniform(low: float, high: float) -> dict[str, Any]:
    """Returns a parameter of a sweep file."""
    return {"distribution": "log_uniform_values", "min": low, "max": high}


def run_trials(content: dict[str, Any], folder: Path, center: Point | None = None) -> list[Point]:
    """Runs a sweep to its end, from where it stopped, `center` first; returns what it tried."""
    sweep = sweep_file.parse(content)
    journal = Journal(folder, yaml.safe_dump(content), 0, "", secrets.token_hex(4))
    if center and not journal.runs:
        point = place_of(center, sweep)
        journal.propose(secrets.token_hex(4), search.values_at(sweep, point), point)
    total = search.num_runs(sweep, COUNT.value)
    if sum(bool(run.outcome) for run in journal.runs) < total:
        SweepRunner(sweep, journal, total, WORKERS.value, retries=2).run()
    return [as_point(run) for run in journal.runs]


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


def keep(tried: Tried) -> None:
    """Writes what was tried, the best points of it, and the sweep file of these points."""
    found = {
        optimizer: {
            stage: {
                budget: best_of([*one["search"], *one["exchange"]])
                for budget, one in searches.items()
            }
            for stage, searches in stages.items()
        }
        for optimizer, stages in tried.items()
    }
    write(TRIED, as_json(tried))
    write(comparison.CHOSEN, as_json(found))
    write(SWEEP, with_points(SWEEP.read_text(), found))


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
    errors.run_command(main)
