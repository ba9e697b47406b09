"""The lowest loss of each stage over a budget of compute or tokens, and where stages cross.

A sweep allows it if it trains several stages for several budgets each. Every statement names its
budget; what one optimizer shows is not mixed with what another does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, variance

import numpy as np

from reporting import statistics
from reporting.runs import Run, group_by, number, sanitize

MIN_BUDGETS = 3
# Draws of the losses' means for the interval of a crossing.
DRAWS = 2000


@dataclass(frozen=True)
class Curve:
    """One stage: its budgets, ascending, and the losses of its seeds at each.

    A stage that stopped at its floor keeps the last losses for every larger budget.
    """

    stage: int
    name: str
    budgets: np.ndarray
    losses: list[list[float]]

    def at(self, budget: float) -> list[float]:
        """Returns the losses at a budget of the sweep, or at the last one before it."""
        return self.losses[max(int(np.searchsorted(self.budgets, budget, "right")) - 1, 0)]

    def means(self, budgets: np.ndarray) -> np.ndarray:
        """Returns the mean losses, interpolated over the logarithm of the budget."""
        means = [fmean(values) for values in self.losses]
        return np.interp(np.log(budgets), np.log(self.budgets), means)

    @property
    def pooled_variance(self) -> float:
        """The variance between seeds, on average over the budgets; 0 with one seed."""
        return fmean([variance(values) if values[1:] else 0.0 for values in self.losses])


@dataclass(frozen=True)
class Frontier:
    """The curves of all stages with one optimizer, the lowest stage first."""

    optimizer: str
    unit: str  # Of the budgets: FLOPs or tokens.
    curves: list[Curve]

    @property
    def budgets(self) -> np.ndarray:
        """Every budget at which at least two stages were trained, ascending."""
        budgets, counts = np.unique(
            np.concatenate([curve.budgets for curve in self.curves]), return_counts=True
        )
        return budgets[counts > 1]

    @property
    def pairs(self) -> list[tuple[Curve, Curve]]:
        """Each stage with the one before it, which comes first."""
        return list(pairwise(self.curves))


def frontiers(runs: Sequence[Run]) -> list[Frontier]:
    """Returns a frontier for each optimizer; none if the runs are not of stages and budgets."""
    unit = "FLOPs" if any(number(run.config.get("train.flops")) for run in runs) else "tokens"
    by_stage = group_by(runs, lambda run: run.stage)
    if 0 in by_stage or len(by_stage) < 2:
        return []
    first = min(by_stage)
    optimizers = group_by(runs, lambda run: sanitize(run.config.get("optimizer.name", "")))
    found = []
    for optimizer, members in optimizers.items():
        stages = group_by(members, lambda run: run.stage)
        # A first stage that no optimizer but one trained is compared with all.
        stages.setdefault(first, by_stage[first])
        curves = [_curve(stages[stage], unit) for stage in sorted(stages)]
        if sum(len(curve.budgets) >= MIN_BUDGETS for curve in curves) >= 2:
            found.append(Frontier(optimizer, unit, curves))
    return found


def _curve(runs: Sequence[Run], unit: str) -> Curve:
    at = group_by(runs, lambda run: _budget(run, unit))
    losses = {
        budget: [loss for run in at[budget] if (loss := run.last("val/loss")) is not None]
        for budget in sorted(at)
    }
    name = sanitize(runs[0].config.get("model.name", "?"))
    kept = {budget: values for budget, values in losses.items() if values and budget}
    return Curve(runs[0].stage, name, np.array(list(kept)), list(kept.values()))


def _budget(run: Run, unit: str) -> float:
    """Returns what a run was given, or else what it used, with two digits."""
    given = number(run.config.get("train.flops")) if unit == "FLOPs" else None
    used = run.last("train_flops" if unit == "FLOPs" else "tokens_seen")
    return given or float(f"{used or 0:.2g}")


@dataclass(frozen=True)
class Crossing:
    """The budget from which on `later` has the lower loss, with its 95 % interval.

    0 if it has it at every budget, infinity if at none.
    """

    earlier: Curve
    later: Curve
    budget: float
    low: float
    high: float


def crossings(frontier: Frontier) -> list[Crossing]:
    """Returns the crossing of each stage with the one before it.

    Its interval is that of curves whose means are drawn from their errors: Student's t, with the
    variance between seeds pooled over the budgets.
    """
    return [_crossing(*pair, frontier.budgets) for pair in frontier.pairs]


def _crossing(earlier: Curve, later: Curve, budgets: np.ndarray) -> Crossing:
    budgets = budgets[budgets >= max(earlier.budgets[0], later.budgets[0])]
    gap = later.means(budgets) - earlier.means(budgets)
    counts = np.array([len(later.at(x)) for x in budgets])
    error = np.sqrt((earlier.pooled_variance + later.pooled_variance) / counts)
    degrees = max(sum(len(values) - 1 for values in later.losses), 1)
    noise = np.random.default_rng(0).standard_t(degrees, (DRAWS, len(budgets)))
    drawn = _last_sign_changes(budgets, gap + noise * error)
    # Not interpolated: a crossing may be at 0 or at infinity.
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    (budget,) = _last_sign_changes(budgets, gap[None])
    return Crossing(earlier, later, float(budget), float(low), float(high))


def _last_sign_changes(budgets: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Returns the budget from which on each row of `gaps` stays negative, interpolated."""
    count = len(budgets)
    last = count - 1 - np.argmax(gaps[:, ::-1] >= 0, axis=1)  # The last that is not negative.
    after = np.minimum(last + 1, count - 1)
    rows = np.arange(len(gaps))
    before, behind = gaps[rows, last], gaps[rows, after]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = budgets[last] * (budgets[after] / budgets[last]) ** (before / (before - behind))
    found = np.where(last == count - 1, np.inf, found)
    return np.where((gaps < 0).all(axis=1), 0.0, found)


def differences(frontier: Frontier) -> dict[tuple[str, float], statistics.Difference]:
    """Returns each stage's difference from the one before it, by its name and the budget."""
    groups: dict[str, list[float]] = {}
    pairs: dict[tuple[str, float], tuple[str, str]] = {}
    for budget in frontier.budgets:
        for earlier, later in frontier.pairs:
            if budget < max(earlier.budgets[0], later.budgets[0]):
                continue
            names = [f"{curve.name} {budget:g}" for curve in (later, earlier)]
            groups |= {
                name: curve.at(budget) for name, curve in zip(names, (later, earlier), strict=True)
            }
            if all(len(groups[name]) > 1 for name in names):
                pairs[later.name, float(budget)] = names[0], names[1]
    return dict(zip(pairs, statistics.welch(groups, pairs.values()), strict=True))


def statements(found: Sequence[Frontier]) -> list[str]:
    """Describes where each stage begins to pay, and by how much at each budget."""
    return [sentence for frontier in found for sentence in _statements(frontier)]


def _statements(frontier: Frontier) -> Iterator[str]:
    unit, tested = frontier.unit, differences(frontier)
    for crossing in crossings(frontier):
        earlier, later = crossing.earlier.name, crossing.later.name
        amounts = [
            f"{difference.mean:+.3f} at {show(budget)}"
            f"{'' if difference.significant else ' (not significant)'}"
            for (name, budget), difference in tested.items()
            if name == later
        ]
        yield (
            f"With {frontier.optimizer}, {later} {_pays(crossing, frontier)} "
            f"against {earlier}: {', '.join(amounts) or 'one seed allows no test'} {unit}."
        )


def _pays(crossing: Crossing, frontier: Frontier) -> str:
    unit = frontier.unit
    if np.isinf(crossing.budget):
        return f"does not pay up to {show(frontier.budgets[-1])} {unit}"
    if not crossing.budget:
        first = max(crossing.earlier.budgets[0], crossing.later.budgets[0])
        return f"pays at {show(first)} {unit} already"
    low = show(crossing.low) if crossing.low else f"below {show(frontier.budgets[0])}"
    high = "unknown" if np.isinf(crossing.high) else show(crossing.high)
    return f"pays from {show(crossing.budget)} {unit} on (95 % interval {low} to {high})"


def show(budget: float) -> str:
    """Formats a budget with two digits: 2.1e12."""
    mantissa, exponent = f"{budget:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
