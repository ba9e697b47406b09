"""The runs of a sweep: the best one, its command, and findings as sentences.

A run knows its sweep by its sweep.json. The folder around the runs may hold the sweep file, which
names the metric, and a journal of how the runs ended.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import run_folder
from reporting import comparison, effects, frontier, made_texts, rows, scaling, statistics
from reporting.groups import SEED, text, value
from reporting.runs import Run, group_by, sanitize

FILE, JOURNAL = "sweep.yaml", "runs.jsonl"
# A scaling law is fitted where no other parameters vary.
SIZES = {
    "config",
    SEED,
    *(f"config.model.{name}" for name in ("num_layers", "embed_dim", "num_heads")),
    *(f"config.train.{name}" for name in ("num_steps", "batch_size")),
}
# Stages are compared over budgets where no other parameters vary.
BUDGETS = {"config", SEED, "config.train.flops", "config.train.num_steps"}
# Flags of a run's folder, not of what it computes.
FOLDER_FLAGS = ("--workdir", "--config.checkpoint.resume")


@dataclass(frozen=True)
class Sweep:
    """The runs of one sweep. `left_out` holds the unfinished ones by outcome.

    `question` is the first line of its description; empty if that is unknown.
    """

    sweep_id: str
    metric: str
    goal: str
    finished: list[Run]
    left_out: dict[str, list[Run]]
    question: str = ""

    def value(self, run: Run) -> float:
        """Returns the last finite value of the metric; every finished run has one."""
        return next(x for x in reversed(run.series(self.metric)) if x is not None)

    @property
    def best(self) -> Run | None:
        """The finished run with the best value, of those that do not see what they predict."""
        choose = max if self.goal == "maximize" else min
        honest = [run for run in self.finished if run.config.get("model.without") != "mask"]
        return choose(honest, key=self.value, default=None)

    @property
    def varying(self) -> list[str]:
        """The parameters that differ between finished runs, the seed last."""
        names = dict.fromkeys(name for run in self.finished for name in run.swept)
        differ = [name for name in names if len({text(run, name) for run in self.finished}) > 1]
        return sorted(differ, key=lambda name: name == SEED)

    def settings(self) -> list[list[Run]]:
        """Groups finished runs that differ only in the seed."""

        def without_seed(run: Run) -> str:
            return json.dumps({**run.swept, SEED: None}, sort_keys=True)

        return list(group_by(self.finished, without_seed).values())

    @cached_property
    def scaling_law(self) -> tuple[scaling.Points, scaling.Law] | None:
        """The runs as points of a scaling law, and that law; None if they don't allow a fit."""
        if self.metric != "val/loss" or not SIZES.issuperset(self.varying):
            return None
        points = scaling.points(self.finished)
        return None if points is None else (points, scaling.fit(points))

    @cached_property
    def frontiers(self) -> list[frontier.Frontier]:
        """The lowest loss of each stage over a budget, for each optimizer; empty if unknown."""
        if self.metric != "val/loss" or not BUDGETS.issuperset(self.varying):
            return []
        return frontier.frontiers(self.finished)

    @cached_property
    def gaps(self) -> list[made_texts.Gap]:
        """The gap of each model above the floor of each text; empty unless texts are made ones."""
        return made_texts.gaps(self.settings()) if self.metric == "val/loss" else []

    @cached_property
    def effects(self) -> list[effects.Effect]:
        """Effects of one number, where a grid asks for them; empty for a law or a frontier."""
        if self.scaling_law or self.frontiers or self.gaps:
            return []
        names = [name for name in self.varying if name != SEED]
        return effects.find(self.finished, names, self.value)

    @cached_property
    def baselines(self) -> dict[str, str]:
        """The experiment that each of the others changes; empty if the sweep is of another kind."""
        return comparison.baselines(dict.fromkeys(text(run, "config") for run in self.finished))

    @property
    def compares_experiments(self) -> bool:
        """True if all runs train one model, or a few and changes to each, from several presets."""
        models = {run.config.get("model.name") for run in self.finished}
        return "config" in self.varying and (len(models) == 1 or bool(self.baselines))

    def best_settings(self) -> dict[str, list[float]]:
        """Returns each model's values over seeds at its setting with the best mean.

        By experiment instead of model if `compares_experiments`.
        """

        def name(group: list[Run]) -> str:
            if self.compares_experiments:
                return text(group[0], "config")
            return sanitize(group[0].config.get("model.name", "?"))

        sign = -1 if self.goal == "maximize" else 1
        return {
            model: min(
                ([self.value(run) for run in group] for group in groups),
                key=lambda values: sign * sum(values) / len(values),
            )
            for model, groups in group_by(self.settings(), name).items()
        }

    @cached_property
    def differences(self) -> list[statistics.Difference]:
        """The tested differences between `best_settings`; empty where something else is asked."""
        if self.scaling_law or self.frontiers or self.gaps or self.effects:
            return []
        groups = self.best_settings()
        bases = dict.fromkeys(self.baselines.values()) if self.compares_experiments else {}
        if len(bases) < 2:
            return statistics.differences(groups, "".join(bases))
        # What spoils one stage changes the variance as well, which Dunnett's test would pool.
        tested = {name: values for name, values in groups.items() if len(values) > 1}
        return [
            found
            for base in bases
            for found in statistics.welch(
                tested,
                [(one, base) for one in tested if self.baselines.get(one) == base in tested],
            )
        ]

    @property
    def matrix(self) -> comparison.Matrix | None:
        """The differences of all pairs, if each pair was tested and there are many."""
        return comparison.matrix(self.differences)

    @property
    def unit(self) -> str:
        """The unit of a difference in the metric."""
        return "nats" if self.metric.endswith("/loss") else self.metric

    def importance(self) -> dict[str, float]:
        """Returns each parameter's share in the variance, without the seed; empty if unknown."""
        names = [name for name in self.varying if name != SEED]
        parameters = {name: [value(run, name) for run in self.finished] for name in names}
        return statistics.importance(parameters, [self.value(run) for run in self.finished])


def find(runs: Sequence[Run]) -> list[Sweep]:
    """Returns the sweeps that the runs belong to."""
    groups = group_by((run for run in runs if run.sweep_id), lambda run: run.sweep_id)
    return [_read(sweep_id, members) for sweep_id, members in groups.items()]


def _read(sweep_id: str, runs: list[Run]) -> Sweep:
    folder = runs[0].folder.parent
    content = _content(folder / FILE)
    metric, goal = _metric(content)
    ended = _outcomes(folder / JOURNAL)

    def outcome(run: Run) -> str:
        ending = ended.get(run.folder.name) or run.status
        if ending in ("done", "finished"):
            return "finished" if run.last(metric) is not None else "without the metric"
        return "stopped early" if ending == "stopped" else ending

    groups = group_by(runs, outcome)
    finished = groups.pop("finished", [])
    return Sweep(sweep_id, metric, goal, finished, groups, _question(content))


def _content(path: Path) -> dict[str, Any]:
    """Returns the content of a sweep file; {} if there is none, or it can't be read."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _metric(content: dict[str, Any]) -> tuple[str, str]:
    """Returns the metric and goal of a sweep file, or the validation loss if it names none."""
    try:
        metric = content["metric"]
        return str(metric["name"]), str(metric.get("goal", "minimize"))
    except (KeyError, TypeError, AttributeError):
        return "val/loss", "minimize"


def _question(content: dict[str, Any]) -> str:
    """Returns the first line of a sweep file's description, or an empty string."""
    return sanitize(str(content.get("description") or "").strip().partition("\n")[0])


def _outcomes(path: Path) -> dict[str, str]:
    """Returns the outcomes in a sweep's journal, by run folder."""
    try:
        events = [event for event in run_folder.read_lines(path) if isinstance(event, dict)]
    except (OSError, ValueError):
        return {}
    return {
        str(event.get("run")): sanitize(event.get("outcome"))
        for event in events
        if event.get("event") == "ended"
    }


def command(run: Run) -> str:
    """Returns the shell command that repeats a run; empty if the run did not record it."""
    words = run.environment.get("command")
    if not isinstance(words, list):
        return ""
    kept = [sanitize(word) for word in words if not str(word).startswith(FOLDER_FLAGS)]
    return shlex.join(["python", *kept])


def counts(sweep: Sweep) -> str:
    """Describes how many runs finished, and which are left out."""
    total = len(sweep.finished) + sum(map(len, sweep.left_out.values()))
    sentence = f"{len(sweep.finished)} of {total} runs finished"
    for outcome, runs in sweep.left_out.items():
        sentence += f"; {outcome} and left out: {', '.join(run.name for run in runs)}"
    return sentence


def statements(sweep: Sweep) -> list[str]:
    """Describes the tested differences between models or experiments, a sentence each.

    Of a sweep over sizes, describes the scaling law instead; over budgets, the frontier; over made
    texts, the gaps above their floors; over one number, its effect.
    """
    if sweep.scaling_law:
        return scaling.statements(*sweep.scaling_law)
    if sweep.frontiers:
        return frontier.statements(sweep.frontiers)
    if sweep.gaps:
        return [compute(sweep), *made_texts.statements(sweep.gaps)]
    if sweep.effects:
        found = effects.statements(sweep.effects, sweep.metric, sweep.goal)
        return [compute(sweep), *found]
    groups = sweep.best_settings()
    if len(groups) < 2:
        return []
    sentences = [compute(sweep)]
    if len(sweep.settings()) > len(groups):
        kind = "experiment" if sweep.compares_experiments else "model"
        sentences.append(f"Of each {kind} the setting with the best mean is compared.")
    if alone := [name for name, values in groups.items() if len(values) < 2]:
        sentences.append(
            f"One seed allows no test: {', '.join(alone)}. Give config.seed more values."
        )
    is_ladder = not sweep.compares_experiments and all(run.stage for run in sweep.finished)
    return sentences + comparison.sentences(sweep.differences, groups, is_ladder)


def compute(sweep: Sweep) -> str:
    """Says how much training compute the finished runs took, and whether it is the same."""
    flops = sorted(rows.finite(sweep.finished, "train_flops"))
    if not flops:
        return "The runs did not record their compute."
    low, high = flops[0], flops[-1]
    if high <= rows.SAME_COMPUTE[1] * low:
        return f"Each run took {frontier.show(high)} training FLOPs."
    return f"The runs took {frontier.show(low)} to {frontier.show(high)} training FLOPs: not equal."
