"""Effect of one number on the metric of a sweep, at each setting of its other parameters.

A grid of heads for two models asks what heads do in each of them. Which of the two has the lower
loss it does not ask: all else is as one experiment file has it, and suits one of them better.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from reporting import statistics
from reporting.groups import label, text
from reporting.runs import Run, are_numbers, group_by
from reporting.statistics import Difference

# More settings of the other parameters would not be read.
MAX_SETTINGS = 8


@dataclass(frozen=True)
class Effect:
    """Values of the metric over seeds, by the value of one parameter in ascending order.

    `setting` names the other parameters; empty if no other one varies.
    """

    parameter: str
    setting: str
    values: dict[float, list[float]]


def find(runs: Sequence[Run], names: Sequence[str], metric: Callable[[Run], float]) -> list[Effect]:
    """Returns the effect of the first of `names` that has a grid; empty if none has one.

    `names` are the parameters that differ between the runs, but for the seed.
    """
    for name in names:
        others = [other for other in names if other != name]
        if is_grid(runs, name, others):
            break
    else:
        return []
    effects = []
    for setting, group in group_by(runs, lambda run: _setting(run, others)).items():
        values: dict[float, list[float]] = {}
        for run in sorted(group, key=lambda run: run.swept[name]):
            values.setdefault(run.swept[name], []).append(metric(run))
        effects.append(Effect(label(name), setting, values))
    return effects if len(effects) <= MAX_SETTINGS else []


def _setting(run: Run, names: Sequence[str]) -> str:
    return ", ".join(
        text(run, name) if name == "config" else f"{label(name)}={text(run, name)}"
        for name in names
    )


def is_grid(runs: Sequence[Run], name: str, others: Sequence[str]) -> bool:
    """Returns True if a number has three values or more at each setting of `others`, two at most.

    A run that diverged may be missing: it leaves a gap.
    """
    counts = [len({text(run, other) for run in runs}) for other in others]
    at = group_by(runs, lambda run: tuple(text(run, other) for other in others))
    return (
        len(others) <= 2
        and are_numbers(run.swept.get(name) for run in runs)
        and len(at) == math.prod(counts)
        and all(len({text(run, name) for run in some}) > 2 for some in at.values())
    )


def statements(effects: Sequence[Effect], metric: str, goal: str) -> list[str]:
    """Describes each effect in a sentence: the best value, and the steps between neighbours."""
    tested = _test_steps(effects)
    choose, word = (max, "highest") if goal == "maximize" else (min, "lowest")
    told = []
    for effect in effects:
        means = {at: fmean(values) for at, values in effect.values.items()}
        best = choose(means, key=lambda at: means[at])
        steps = []
        for one, later in pairwise(means):
            found = tested.get((effect.setting, one, later))
            mark = "*" if found and found.significant else ""
            steps.append(f"{one:g} to {later:g} {means[later] - means[one]:+.3f}{mark}")
        told.append(
            f"{effect.setting}{': ' * bool(effect.setting)}{metric} is {word} at "
            f"{effect.parameter}={best:g}, {means[best]:.3f}. "
            f"From one value to the next: {', '.join(steps)}."
        )
    if tested:
        (test,) = {found.test for found in tested.values()}
        return [*told, f"An asterisk marks a statistically significant step ({test})."]
    return [*told, "One seed allows no test: give config.seed more values."]


def _test_steps(effects: Sequence[Effect]) -> dict[tuple[str, float, float], Difference]:
    """Compares neighbouring values with two seeds or more, corrected for all effects together.

    The keys are setting, value and next value; the differences are the later minus the former.
    """
    steps = [
        (effect, one, later)
        for effect in effects
        for one, later in pairwise(effect.values)
        if len(effect.values[one]) > 1 and len(effect.values[later]) > 1
    ]

    def name(effect: Effect, at: float) -> str:
        return f"{effect.setting} {at}"

    tested = statistics.welch(
        {name(effect, at): effect.values[at] for effect, *ends in steps for at in ends},
        [(name(effect, later), name(effect, one)) for effect, one, later in steps],
    )
    return {
        (effect.setting, one, later): found
        for (effect, one, later), found in zip(steps, tested, strict=True)
    }
