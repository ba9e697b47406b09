"""What a handful of runs allows to be said: intervals, differences beyond noise, importance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, variance
from typing import Any

CONFIDENCE = 0.95
# Fewer runs than this a parameter's importance is not guessed from.
LEAST_RUNS = 8


@dataclass(frozen=True)
class Difference:
    """Group `one` minus group `other`: its mean, interval, and whether luck explains it."""

    one: str
    other: str
    mean: float
    low: float
    high: float
    beyond_noise: bool


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of at least two values and its 95 % confidence interval, by Student's t."""
    from scipy.special import stdtrit

    count, mean = len(values), fmean(values)
    half = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * (variance(values) / count) ** 0.5
    return mean, mean - half, mean + half


def differences(groups: Mapping[str, Sequence[float]], baseline: str = "") -> list[Difference]:
    """What luck does not explain between the groups that have two values or more: each of them
    with the `baseline`, or every pair if there is none.
    """
    enough = {name: values for name, values in groups.items() if len(values) > 1}
    if baseline not in enough:
        return _pairs(enough, combinations(enough, 2))
    others = [name for name in enough if name != baseline]
    if len(others) > 1 and any(variance(values) for values in enough.values()):
        return _with_baseline(enough, others, baseline)
    return _pairs(enough, [(name, baseline) for name in others])


def _with_baseline(
    groups: Mapping[str, Sequence[float]], others: Sequence[str], baseline: str
) -> list[Difference]:
    """Each of the others with the baseline: Dunnett's test (1955), whose verdicts and intervals
    hold for all of them together.

    It takes the spread over seeds to be the same everywhere, so that two or three seeds of each
    tell it together; by themselves they hardly would.
    """
    from scipy import stats

    samples = [groups[name] for name in others]
    test = stats.dunnett(*samples, control=groups[baseline], rng=0)
    intervals = test.confidence_interval(CONFIDENCE)
    found = zip(others, test.pvalue, intervals.low, intervals.high, strict=True)
    mean = fmean(groups[baseline])
    return [
        Difference(
            name,
            baseline,
            fmean(groups[name]) - mean,
            float(low),
            float(high),
            bool(chance < 1 - CONFIDENCE),
        )
        for name, chance, low, high in found
    ]


def _pairs(
    groups: Mapping[str, Sequence[float]], to_compare: Iterable[tuple[str, str]]
) -> list[Difference]:
    """Welch's t-test of each pair, corrected by Holm. The interval is of the one difference alone;
    `beyond_noise` holds for all of them together.
    """
    from scipy import stats

    pairs, chances = [], []
    for one, other in to_compare:
        a, b = groups[one], groups[other]
        mean = fmean(a) - fmean(b)
        if variance(a) == variance(b) == 0:
            # No spread at all: a t-test would divide by it.
            pairs.append((one, other, mean, mean, mean))
            chances.append(0.0 if mean else 1.0)
            continue
        test = stats.ttest_ind(a, b, equal_var=False)
        low, high = test.confidence_interval(CONFIDENCE)
        pairs.append((one, other, mean, float(low), float(high)))
        chances.append(float(test.pvalue))
    rejected = holm(chances)
    return [Difference(*pair, beyond) for pair, beyond in zip(pairs, rejected, strict=True)]


def holm(chances: Sequence[float]) -> list[bool]:
    """Which of several p-values stand at 5 % together (Holm, 1979)."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    rejected = [False] * len(chances)
    for rank, i in enumerate(order):
        if chances[i] > (1 - CONFIDENCE) / (len(chances) - rank):
            break
        rejected[i] = True
    return rejected


def importance(points: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, float]:
    """The share of each parameter in the spread of the values, by fANOVA over a random forest.

    Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance" (2014). Empty if
    the runs are too few, or nothing but one parameter varies.
    """
    names = [name for name in points[0] if len({repr(point[name]) for point in points}) > 1]
    if len(points) < LEAST_RUNS or len(names) < 2 or len(set(values)) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _space([point[name] for point in points]) for name in names}
    study = optuna.create_study()
    for point, value in zip(points, values, strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                params={name: point[name] for name in names}, distributions=space, value=value
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _space(values: Sequence[Any]) -> Any:
    """The values of a parameter as Optuna wants to know them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return FloatDistribution(min(values), max(values), log=spans_decades(values))
    return CategoricalDistribution(list(dict.fromkeys(values)))


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows these numbers better."""
    return min(values) > 0 and max(values) >= 10 * min(values)
