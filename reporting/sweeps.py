"""What a sweep found: its runs, the best of them, and what its parameters did.

Runs of one sweep know it by their sweep.json; the folder around them may hold the sweep's own file,
which names the metric, and a journal of how the runs ended.
"""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import run_folder
from reporting import scaling, statistics
from reporting.runs import Run, number, plain

FILE, JOURNAL = "sweep.yaml", "runs.jsonl"
SEED = "config.seed"
# Where no other parameters vary, runs may show how the loss falls with size and tokens.
SIZES = {
    "config",
    SEED,
    *(f"config.model.{name}" for name in ("num_layers", "embed_dim", "num_heads")),
    *(f"config.train.{name}" for name in ("num_steps", "batch_size")),
}
# Flags that say where a run is kept, not what it is.
KEEPING = ("--workdir", "--config.checkpoint.resume")


@dataclass(frozen=True)
class Sweep:
    """The runs of one sweep. `finished` came to their end; `left_out` says how others did not."""

    sweep_id: str
    metric: str
    goal: str
    finished: list[Run]
    left_out: dict[str, list[Run]]

    def value(self, run: Run) -> float:
        """What a finished run came to."""
        return run.last(self.metric)

    @property
    def best(self) -> Run | None:
        """The finished run with the best value."""
        choose = max if self.goal == "maximize" else min
        return choose(self.finished, key=self.value, default=None)

    def better(self) -> str:
        """In a word, where the good values are."""
        return "higher" if self.goal == "maximize" else "lower"

    @property
    def varying(self) -> list[str]:
        """The parameters that differ between finished runs, the seed last."""
        names = dict.fromkeys(name for run in self.finished for name in run.swept)
        differ = [name for name in names if len({text(run, name) for run in self.finished}) > 1]
        return sorted(differ, key=lambda name: name == SEED)

    def settings(self) -> dict[str, list[Run]]:
        """Finished runs that differ in nothing but the seed, together."""
        groups: dict[str, list[Run]] = {}
        for run in self.finished:
            rest = {name: value for name, value in run.swept.items() if name != SEED}
            groups.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
        return groups

    @cached_property
    def scaling(self) -> tuple[Any, Any] | None:
        """Its runs as points of a scaling law, and that law; None if they vary too little."""
        if self.metric != "val/loss" or not SIZES.issuperset(self.varying):
            return None
        seen = scaling.points(self.finished)
        return seen and (seen, scaling.fit(seen))

    @property
    def compares_experiments(self) -> bool:
        """Whether its runs are one model's, from several experiments: presets, for example."""
        models = {run.config.get("model.name") for run in self.finished}
        return len(models) == 1 and "config" in self.varying

    def compared(self, run: Run) -> str:
        """What a run stands for in comparisons: its model, or the experiment of a model."""
        return text(run, "config") if self.compares_experiments else plain(model_of(run))

    def stages(self) -> tuple[dict[str, list[float]], bool]:
        """Values over seeds of the best setting of each model, or of each experiment if they all
        train one, and whether there was a choice of it.
        """
        by_model: dict[str, list[list[Run]]] = {}
        for group in self.settings().values():
            by_model.setdefault(self.compared(group[0]), []).append(group)
        chosen, choice = {}, False
        sign = -1 if self.goal == "maximize" else 1
        for model, groups in by_model.items():
            values = [[self.value(run) for run in group] for group in groups]
            chosen[model] = min(values, key=lambda some: sign * sum(some) / len(some))
            choice |= len(values) > 1
        return chosen, choice

    def importance(self) -> dict[str, float]:
        """The share of each parameter but the seed; empty if nothing can be said."""
        names = [name for name in self.varying if name != SEED]
        points = [{name: run.swept.get(name) for name in names} for run in self.finished]
        if not names:
            return {}
        return statistics.importance(points, [self.value(run) for run in self.finished])


def model_of(run: Run) -> str:
    """The name of a run's model."""
    return str(run.config.get("model.name", "?"))


def text(run: Run, name: str) -> str:
    """A parameter's value in words."""
    return plain(shown(run, name))


def shown(run: Run, name: str) -> Any:
    """A parameter's value as it is drawn: of an experiment, the name without its folder."""
    value = run.swept.get(name, "–")
    if name == "config":
        path, _, preset = str(value).partition(":")
        return Path(path).stem + (f":{preset}" if preset else "")
    return value


def label(name: str) -> str:
    """A parameter's flag as it is shown: optimizer.learning_rate, or experiment for `config`."""
    return "experiment" if name == "config" else plain(name.removeprefix("config."))


def find(runs: Sequence[Run]) -> list[Sweep]:
    """The sweeps that the runs belong to."""
    by_id: dict[str, list[Run]] = {}
    for run in runs:
        if run.sweep_id:
            by_id.setdefault(run.sweep_id, []).append(run)
    return [_gather(sweep_id, members) for sweep_id, members in by_id.items()]


def _gather(sweep_id: str, runs: list[Run]) -> Sweep:
    folder = runs[0].folder.parent
    metric, goal = _metric(folder / FILE)
    ended = _outcomes(folder / JOURNAL)
    finished: list[Run] = []
    left_out: dict[str, list[Run]] = {}
    for run in runs:
        outcome = ended.get(run.folder.name) or (
            "finished" if run.status == "done" else plain(run.status)
        )
        if outcome == "finished" and number(run.last(metric)) is not None:
            finished.append(run)
        else:
            how = "stopped early" if outcome == "stopped" else outcome
            left_out.setdefault("without the metric" if how == "finished" else how, []).append(run)
    return Sweep(plain(sweep_id), metric, goal, finished, left_out)


def _metric(path: Path) -> tuple[str, str]:
    """The metric and the goal of a sweep file; of none, what all stages are compared by."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        metric = content["metric"]
        return str(metric["name"]), str(metric.get("goal", "minimize"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return "val/loss", "minimize"


def _outcomes(path: Path) -> dict[str, str]:
    """How runs ended, by folder, as far as a journal tells."""
    try:
        events = [event for event in run_folder.read_lines(path) if isinstance(event, dict)]
    except (OSError, ValueError):
        return {}
    return {
        str(event.get("run")): plain(event.get("outcome"))
        for event in events
        if event.get("event") == "ended"
    }


def command(run: Run) -> str:
    """What runs the same again, as a person types it."""
    words = run.environment.get("command")
    if not isinstance(words, list):
        return ""
    kept = [plain(word) for word in words if not str(word).startswith(KEEPING)]
    return shlex.join(["python", *kept])


def counts(sweep: Sweep) -> str:
    """How many runs there are, and which of them the figures leave out."""
    total = len(sweep.finished) + sum(map(len, sweep.left_out.values()))
    said = f"{len(sweep.finished)} of {total} runs finished"
    for how, runs in sweep.left_out.items():
        said += f"; {how} and left out: {', '.join(run.name for run in runs)}"
    return said


def _is_part_of_all(name: str, others: Iterable[str]) -> bool:
    """Whether all of the `others` are the experiment `name` with more presets."""
    parts = [set(re.split("[:+]", one)) for one in (name, *others)]
    return all(parts[0] <= other for other in parts)


def statements(sweep: Sweep) -> list[str]:
    """Which differences between models, or experiments, are beyond noise, a sentence each."""
    if sweep.scaling:
        return scaling.statements(*sweep.scaling)
    groups, choice = sweep.stages()
    if len(groups) < 2:
        return []
    said = []
    kind = "experiment" if sweep.compares_experiments else "model"
    if choice:
        said.append(f"Of each {kind} the setting with the best mean is compared.")
    baseline = ""
    if sweep.compares_experiments:
        # A preset is a change to the experiment without it, where that is among them.
        baseline = next((name for name in groups if _is_part_of_all(name, groups)), "")
    alone = [model for model, values in groups.items() if len(values) < 2]
    if alone:
        said.append(
            f"One seed says nothing about luck: {', '.join(alone)}. Give config.seed more values."
        )
    for found in statistics.differences(groups, baseline):
        seeds = " and ".join(
            str(count) for count in sorted({len(groups[found.one]), len(groups[found.other])})
        )
        is_below = found.mean < 0
        side = "below" if is_below else "above"
        low, high = (-found.high, -found.low) if is_below else (found.low, found.high)
        verdict = "beyond noise" if found.beyond_noise else f"within noise, {seeds} seeds"
        said.append(
            f"{found.one} is {abs(found.mean):.3f} {side} {found.other} "
            f"(95 % interval {low:.3f} to {high:.3f}): {verdict}."
        )
    return said
