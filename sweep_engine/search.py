"""Next point of a sweep: of a grid, at random, or by Bayesian search.

A point is a number in [0, 1] for each parameter, or an index for a categorical one. It is a pure
function of the file, the seed, the run's number and the results of earlier runs: the search keeps
no state, and a sweep repeats exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import UserError
from sweep_engine.journal import SweepRun
from sweep_engine.sweep_file import Metric, SweepFile

# A journal and a report hold so many; most sweeps have dozens.
MAX_RUNS = 10_000


@dataclass(frozen=True)
class Trial:
    """A point and its cost (lower is better), None while its run has no result."""

    point: dict[str, float]
    cost: float | None


def num_points(sweep: SweepFile) -> int | None:
    """Returns the number of points of a grid; None for a random or Bayesian search."""
    if sweep.method != "grid":
        return None
    return math.prod(len(parameter.grid()) for parameter in sweep.parameters)


def num_runs(sweep: SweepFile, count: int) -> int:
    """Returns the least of the grid, run_cap and `count`.

    Raises UserError if all are unlimited, or above MAX_RUNS.
    """
    # No grid is empty, and no run_cap is 0.
    limits = [limit for limit in (num_points(sweep), sweep.run_cap, count) if limit]
    if not limits:
        raise UserError(f"a {sweep.method} search never ends: give --count, or run_cap in the file")
    if min(limits) > MAX_RUNS:
        sizes = " x ".join(f"{len(parameter.grid()):,}" for parameter in sweep.parameters)
        what = f"a grid of {sizes} points" if sweep.method == "grid" else "a search"
        raise UserError(
            f"{min(limits):,} runs of {what}: expected {MAX_RUNS:,} at most; give --count, run_cap "
            "in the file, or fewer values"
        )
    return min(limits)


def as_trials(done: Sequence[SweepRun], pending: Sequence[SweepRun], metric: Metric) -> list[Trial]:
    """Returns the trials of earlier runs; one of `done` without a value costs as much as the worst.

    The results of `pending` are left out, even where there are some.
    """
    costs = [metric.cost(run.value) for run in done]
    worst = max(filter(math.isfinite, costs), default=0.0)
    known = [Trial(run.point, min(cost, worst)) for run, cost in zip(done, costs, strict=True)]
    return known + [Trial(run.point, None) for run in pending]


def propose(sweep: SweepFile, seed: int, number: int, trials: Sequence[Trial]) -> dict[str, float]:
    """Returns the point of run `number` (from 1) of a random or Bayesian sweep."""
    if sweep.method == "bayes":
        return _parzen_estimate(sweep, seed, number, trials)
    draws = _generator(seed, number).random(len(sweep.parameters))
    return dict(zip([p.name for p in sweep.parameters], draws.tolist(), strict=True))


def values_at(sweep: SweepFile, point: dict[str, float]) -> dict[str, Any]:
    """Returns the flags' values at a point; of a parameter that it lacks, the median."""
    values = {}
    for parameter in sweep.parameters:
        at = point.get(parameter.name, 0.5)
        values[parameter.name] = (
            parameter.options["values"][at] if isinstance(at, int) else parameter.inverse_cdf(at)
        )
    return values


def grid_point(sweep: SweepFile, number: int) -> dict[str, Any]:
    """Returns the values of run `number` (from 1) of a grid. Raises UserError past the last.

    In W&B's order, the last parameter fastest, but the seed slowest of all: a fraction of the sweep
    covers every setting once, and runs that compile the same program do not start side by side.
    """
    ordered = sorted(sweep.parameters, key=lambda parameter: parameter.name != "config.seed")
    left, values = number - 1, {}
    for parameter in reversed(ordered):
        grid = parameter.grid()
        left, place = divmod(left, len(grid))
        values[parameter.name] = grid[place]
    if left:
        raise UserError(f"the grid has {num_points(sweep)} points: there is no run {number}")
    return dict(sorted(values.items()))


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))


def _parzen_estimate(
    sweep: SweepFile, seed: int, number: int, trials: Sequence[Trial]
) -> dict[str, float]:
    """Returns the proposal of Optuna's tree-structured Parzen estimator, given all `trials`.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011), section 4.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {
        parameter.name: CategoricalDistribution(range(len(parameter.options["values"])))
        if parameter.distribution == "categorical"
        else FloatDistribution(0.0, 1.0)
        for parameter in sweep.parameters
        if parameter.distribution != "constant"
    }
    # A sampler draws from one stream; each run has its own.
    draw = int(_generator(seed, number).integers(2**32))
    # The constant liar keeps proposals away from the points of pending runs.
    study = optuna.create_study(sampler=TPESampler(seed=draw, constant_liar=True))
    study.add_trials(
        create_trial(
            params={name: trial.point[name] for name in space},
            distributions=space,
            value=trial.cost,
            state=TrialState.RUNNING if trial.cost is None else TrialState.COMPLETE,
        )
        for trial in trials
    )
    return study.ask(space).params
