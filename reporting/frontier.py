"""The lowest loss of each stage over a budget of compute or tokens, and where stages cross.

A sweep allows it if it trains several stages for several budgets each, and varies nothing else but
the optimizer and the seed. Every statement names its budget; what one optimizer shows is not mixed
with what another does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, variance

import numpy as np

from reporting import rows, statistics
from reporting.groups import group_seeds
from reporting.runs import Run, group_by, number, sanitize

MIN_BUDGETS = 3
# Ratio of budgets that count as one: runs end with a whole update.
SAME_BUDGET = 1.1
# Draws of the losses' means for the interval of a crossing.
DRAWS = 2000


@dataclass(frozen=True)
class Curve:
    """One stage: its budgets, ascending, and the losses of its seeds at each."""

    stage: int
    name: str
    budgets: np.ndarray
    losses: list[list[float]]

    def at(self, budget: float) -> list[float]:
        """Returns the losses at a budget; past the last one those at the last, else nothing."""
        if budget > self.budgets[-1]:
            return self.losses[-1]
        (places,) = np.nonzero(self.budgets == budget)
        return self.losses[places[0]] if len(places) else []

    @property
    def spread(self) -> tuple[float, int]:
        """The variance between seeds, pooled over the budgets, and its degrees of freedom."""
        several = [values for values in self.losses if values[1:]]
        degrees = sum(len(values) - 1 for values in several)
        pooled = sum((len(values) - 1) * variance(values) for values in several)
        return (pooled / degrees if degrees else 0.0), degrees


@dataclass(frozen=True)
class Pair:
    """A stage and the one before it, at the budgets at which both have losses."""

    earlier: Curve
    later: Curve
    budgets: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """The mean losses of the later stage minus those of the earlier one."""
        return np.array([fmean(self.later.at(x)) - fmean(self.earlier.at(x)) for x in self.budgets])


@dataclass(frozen=True)
class Frontier:
    """The curves of all stages with one optimizer, the lowest stage first."""

    optimizer: str
    unit: str  # Of the budgets: FLOPs or tokens.
    curves: list[Curve]

    @property
    def budgets(self) -> np.ndarray:
        """Every budget at which at least two stages were trained, ascending."""
        every = np.concatenate([curve.budgets for curve in self.curves])
        budgets, counts = np.unique(every, return_counts=True)
        return budgets[counts > 1]

    @property
    def pairs(self) -> list[Pair]:
        """Each stage with the one before it, if they have two budgets in common or more."""
        found = []
        for earlier, later in pairwise(self.curves):
            common = np.array([x for x in self.budgets if earlier.at(x) and later.at(x)])
            if len(common) > 1:
                found.append(Pair(earlier, later, common))
        return found


def frontiers(runs: Sequence[Run]) -> list[Frontier]:
    """Returns a frontier for each optimizer; none if the runs are not of stages and budgets.

    Stage 1, the table of bigrams, is compared with the others of every optimizer.
    """
    unit = "FLOPs" if any(number(run.config.get("train.flops")) for run in runs) else "tokens"
    budget_of = _budgets(runs, unit)
    runs = [run for run in runs if budget_of[run.name] and run.last("val/loss") is not None]
    by_stage = group_by(runs, lambda run: run.stage)
    if 0 in by_stage or len(by_stage) < 2:
        return []
    found = []
    for optimizer, members in group_by(runs, _optimizer).items():
        stages = group_by(members, lambda run: run.stage)
        if 1 in by_stage:
            stages.setdefault(1, by_stage[1])
        curves = [_curve(stages[stage], budget_of) for stage in sorted(stages)]
        if None in curves:
            return []
        one = Frontier(optimizer, unit, [curve for curve in curves if curve])
        if sum(len(curve.budgets) >= MIN_BUDGETS for curve in one.curves) >= 2 and one.pairs:
            found.append(one)
    return found


def _optimizer(run: Run) -> str:
    return sanitize(run.config.get("optimizer.name", ""))


def _budgets(runs: Sequence[Run], unit: str) -> dict[str, float]:
    """Returns what each run was given, by its name; else what it used, near ones as one."""
    given, used = {}, {}
    for run in runs:
        flops = number(run.config.get("train.flops")) if unit == "FLOPs" else None
        metric = "train_flops" if unit == "FLOPs" else "tokens_seen"
        given[run.name] = flops or 0.0
        used[run.name] = float(f"{run.last(metric) or 0:.2g}")
    budgets, last = {}, 0.0
    for name in sorted(used, key=lambda name: used[name]):
        last = last if used[name] <= SAME_BUDGET * last else used[name]
        budgets[name] = given[name] or last
    return budgets


def _curve(runs: Sequence[Run], budget_of: dict[str, float]) -> Curve | None:
    """Returns a stage's curve; None if runs at one budget differ in more than the seed."""
    at = group_by(runs, lambda run: budget_of[run.name])
    if any(len(group_seeds(members)) > 1 for members in at.values()):
        return None
    budgets = sorted(at)
    name = sanitize(runs[0].config.get("model.name", "?"))
    losses = [rows.finite(at[budget], "val/loss") for budget in budgets]
    return Curve(runs[0].stage, name, np.array(budgets), losses)


@dataclass(frozen=True)
class Crossing:
    """The budget from which on the later stage of a pair has the lower loss.

    With its 95 % interval, None without two seeds. 0 stands for every budget of the pair, infinity
    for none, or not for the last.
    """

    pair: Pair
    budget: float
    interval: tuple[float, float] | None


def crossing(pair: Pair) -> Crossing:
    """Returns the crossing of a pair.

    The interval is that of curves whose means are drawn from their errors: Student's t, with the
    variance between seeds pooled over the budgets, and Welch's degrees of freedom.
    """
    budgets, gaps = pair.budgets, pair.gaps
    (budget,) = _last_sign_changes(budgets, gaps[None])
    parts = []
    for curve in (pair.earlier, pair.later):
        pooled, degrees = curve.spread
        if not degrees:
            return Crossing(pair, float(budget), None)
        parts.append((pooled / np.array([len(curve.at(x)) for x in budgets]), degrees))
    (a, m), (b, n) = parts
    with np.errstate(invalid="ignore"):
        degrees_of_both = np.where(a + b > 0, (a + b) ** 2 / (a**2 / m + b**2 / n), m + n)
    noise = np.random.default_rng(0).standard_t(degrees_of_both, (DRAWS, len(budgets)))
    drawn = _last_sign_changes(budgets, gaps + noise * np.sqrt(a + b))
    # Not interpolated: a crossing may be at 0 or at infinity.
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    return Crossing(pair, float(budget), (float(low), float(high)))


def _last_sign_changes(budgets: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Returns the budget from which on each row of `gaps` stays negative, interpolated."""
    count = len(budgets)
    last = count - 1 - np.argmax(gaps[:, ::-1] >= 0, axis=1)  # The last that is not negative.
    after = np.minimum(last + 1, count - 1)
    places = np.arange(len(gaps))
    before, behind = gaps[places, last], gaps[places, after]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = budgets[last] * (budgets[after] / budgets[last]) ** (before / (before - behind))
    found = np.where(last == count - 1, np.inf, found)
    return np.where((gaps < 0).all(axis=1), 0.0, found)


def differences(frontier: Frontier) -> dict[tuple[str, float], statistics.Difference]:
    """Returns each stage's difference from the one before it, by its name and the budget.

    Holm's correction is over all of them. Without two seeds there is none.
    """
    groups: dict[str, list[float]] = {}
    named: dict[tuple[str, float], tuple[str, str]] = {}
    for pair in frontier.pairs:
        for budget in pair.budgets:
            both = {f"{one.name} {budget:g}": one.at(budget) for one in (pair.later, pair.earlier)}
            if all(len(values) > 1 for values in both.values()):
                groups |= both
                later, earlier = both
                named[pair.later.name, float(budget)] = later, earlier
    return dict(zip(named, statistics.welch(groups, named.values()), strict=True))


def statements(found: Sequence[Frontier]) -> list[str]:
    """Describes from where on each stage has the lower loss, and the difference at each budget."""
    return [sentence for frontier in found for sentence in _statements(frontier)]


def _statements(frontier: Frontier) -> Iterator[str]:
    tested = differences(frontier)
    for pair in frontier.pairs:
        amounts = []
        for budget, gap in zip(pair.budgets, pair.gaps, strict=True):
            notes = [f"{one.name} as at {show(one.budgets[-1])}" for one in _carried(pair, budget)]
            difference = tested.get((pair.later.name, float(budget)))
            if difference is None:
                notes.append("one seed allows no test")
            elif not difference.significant:
                notes.append("not significant")
            beside = f" ({', '.join(notes)})" if notes else ""
            amounts.append(f"{gap:+.3f} at {show(budget)}{beside}")
        yield (
            f"With {frontier.optimizer}, {pair.later.name} {_verdict(pair, frontier.unit)}. "
            f"Difference by {frontier.unit}: {', '.join(amounts)}."
        )


def _carried(pair: Pair, budget: float) -> list[Curve]:
    """Returns the curves of a pair that end before a budget."""
    return [curve for curve in (pair.earlier, pair.later) if curve.budgets[-1] < budget]


def _verdict(pair: Pair, unit: str) -> str:
    lower = f"a lower loss than {pair.earlier.name}"
    found, first, last = crossing(pair), show(pair.budgets[0]), show(pair.budgets[-1])
    if not found.budget:
        return f"has {lower} at every budget from {first} {unit} on"
    if np.isfinite(found.budget) and np.count_nonzero(np.diff(pair.gaps < 0)) == 1:
        text = f"has {lower} from {show(found.budget)} {unit} on"
        if found.interval:
            low, high = found.interval
            below = show(low) if low else f"below {first}"
            above = f"above {last}" if np.isinf(high) else show(high)
            text += f" (95 % interval {below} to {above})"
        return text
    places = [show(x) for x, gap in zip(pair.budgets, pair.gaps, strict=True) if gap < 0]
    if not places:
        return f"has nowhere {lower}, up to {last} {unit}"
    return f"has {lower} only at {', '.join(places)} {unit}"


def show(budget: float) -> str:
    """Formats a budget with two digits: 2.1e12."""
    mantissa, exponent = f"{budget:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
