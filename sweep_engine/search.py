"""The next point of a sweep: of a grid, drawn at random, or where a Bayesian search looks next.

A point is a number in [0, 1] for each parameter; for words without an order, their place. Every
point is a pure function of the file, the seed, the run's number and what earlier runs ended with:
nothing has to be kept of the search itself, and it repeats exactly.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import UserError
from sweep_engine.sweep_file import SweepFile

# The parameter by which runs differ in luck alone.
SEED = "config.seed"


@dataclass(frozen=True)
class Tried:
    """An earlier point. `cost` is what it came to, the lower the better; None: not known yet."""

    point: dict[str, float]
    cost: float | None


def num_points(sweep: SweepFile) -> int | None:
    """How many points there are; None if there is no end of them."""
    if sweep.method != "grid":
        return None
    return int(np.prod([len(parameter.grid()) for parameter in sweep.parameters], dtype=np.int64))


def propose(sweep: SweepFile, seed: int, number: int, tried: Sequence[Tried]) -> dict[str, float]:
    """The point of run `number` (from 1) of a random or Bayesian sweep; `tried` precede it."""
    if sweep.method == "bayes":
        return _likely_best(sweep, seed, number, tried)
    draws = _generator(seed, number).random(len(sweep.parameters))
    return dict(zip([p.name for p in sweep.parameters], draws.tolist(), strict=True))


def values_at(sweep: SweepFile, point: dict[str, float]) -> dict[str, Any]:
    """The flags' values at a point that `propose` gave."""
    return {
        parameter.name: (
            parameter.given["values"][point[parameter.name]]
            if isinstance(point.get(parameter.name), int)
            else parameter.value_at(point.get(parameter.name, 0.5))
        )
        for parameter in sweep.parameters
    }


def grid_point(sweep: SweepFile, number: int) -> dict[str, Any]:
    """The values of run `number` (from 1) of a grid.

    In W&B's order, the last parameter fastest, but the seed slowest of all: after a fraction of the
    sweep everything has been seen once, and runs that need the same program compiled do not start
    side by side. Raises UserError past the last point.
    """
    ordered = sorted(sweep.parameters, key=lambda parameter: parameter.name != SEED)
    points = itertools.product(*[parameter.grid() for parameter in ordered])
    values = next(itertools.islice(points, number - 1, None), None)
    if values is None:
        raise UserError(f"the grid has {num_points(sweep)} points: there is no run {number}")
    chosen = dict(zip([parameter.name for parameter in ordered], values, strict=True))
    return {parameter.name: chosen[parameter.name] for parameter in sweep.parameters}


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))


def _likely_best(
    sweep: SweepFile, seed: int, number: int, tried: Sequence[Tried]
) -> dict[str, float]:
    """Optuna's tree-structured Parzen estimator, told of everything tried so far.

    Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011), section 4.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {
        parameter.name: optuna.distributions.CategoricalDistribution(
            range(len(parameter.given["values"]))
        )
        if parameter.is_categorical
        else optuna.distributions.FloatDistribution(0.0, 1.0)
        for parameter in sweep.parameters
        if not parameter.is_constant
    }
    sampler = optuna.samplers.TPESampler(
        # A sampler draws from one stream; each run gets one of its own.
        seed=int(_generator(seed, number).integers(2**32)),
        # A run without a result yet keeps the others from trying the same.
        constant_liar=True,
    )
    study = optuna.create_study(sampler=sampler)
    for run in tried:
        known = run.cost is not None
        study.add_trial(
            optuna.trial.create_trial(
                params={name: run.point[name] for name in space},
                distributions=space,
                value=run.cost,
                state=optuna.trial.TrialState.COMPLETE
                if known
                else optuna.trial.TrialState.RUNNING,
            )
        )
    return study.ask(space).params
