"""Confidence intervals, tests of differences between groups of runs, parameter importance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, variance
from typing import Any

from reporting.runs import are_numbers

CONFIDENCE = 0.95
# Fewer runs give no estimate of a parameter's importance.
MIN_RUNS = 8
Groups = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Difference:
    """Mean of group `one` minus that of group `other`, with interval and the test's verdict."""

    one: str
    other: str
    mean: float
    low: float
    high: float
    significant: bool
    test: str

    def __neg__(self) -> "Difference":
        """Returns the difference of `other` from `one`."""
        low, high = -self.high, -self.low
        return replace(self, one=self.other, other=self.one, mean=-self.mean, low=low, high=high)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean of at least two values and its 95 % confidence interval (Student's t)."""
    from scipy.special import stdtrit

    count, mean = len(values), fmean(values)
    half = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * (variance(values) / count) ** 0.5
    return mean, mean - half, mean + half


def differences(groups: Groups, baseline: str = "") -> list[Difference]:
    """Compares the groups of two values or more with `baseline`, or each pair if it is none."""
    groups = {name: values for name, values in groups.items() if len(values) > 1}
    if baseline not in groups:
        return welch(groups, combinations(groups, 2))
    others = [name for name in groups if name != baseline]
    if len(others) > 1 and any(variance(values) for values in groups.values()):
        return _dunnett(groups, others, baseline)
    return welch(groups, [(name, baseline) for name in others])


def _dunnett(groups: Groups, others: Sequence[str], baseline: str) -> list[Difference]:
    """Compares each of the others with the baseline by Dunnett's test (1955).

    Verdicts and intervals hold for all of them together. The test assumes the same variance in all
    groups and pools it, so two or three seeds of each suffice.
    """
    from scipy import stats

    samples = [groups[name] for name in others]
    test = stats.dunnett(*samples, control=groups[baseline], rng=0)
    intervals = test.confidence_interval(CONFIDENCE)
    means = [fmean(groups[name]) - fmean(groups[baseline]) for name in others]
    lows, highs = intervals.low.tolist(), intervals.high.tolist()
    verdicts = (test.pvalue < 1 - CONFIDENCE).tolist()
    columns = zip(others, means, lows, highs, verdicts, strict=True)
    return [
        Difference(name, baseline, mean, low, high, significant, "Dunnett's test")
        for name, mean, low, high, significant in columns
    ]


def welch(groups: Groups, pairs: Iterable[tuple[str, str]]) -> list[Difference]:
    """Compares pairs by Welch's t-test with Holm's correction.

    Each interval holds for its difference alone, the verdicts hold for all of them together.
    """
    from scipy import stats

    compared, p_values = [], []
    for one, other in pairs:
        a, b = groups[one], groups[other]
        low = high = mean = fmean(a) - fmean(b)
        p_value = 0.0 if mean else 1.0
        # Without variance a t-test would divide by zero.
        if variance(a) or variance(b):
            test = stats.ttest_ind(a, b, equal_var=False)
            low, high = test.confidence_interval(CONFIDENCE)
            p_value = test.pvalue
        compared.append((one, other, mean, float(low), float(high)))
        p_values.append(float(p_value))
    name = "Welch's t-test" + (", Holm-corrected" if len(compared) > 1 else "")
    return [
        Difference(*values, rejected, name)
        for values, rejected in zip(compared, holm(p_values), strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[bool]:
    """Returns which hypotheses are rejected at a family-wise error rate of 5 % (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for rank, i in enumerate(order):
        if p_values[i] > (1 - CONFIDENCE) / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def importance(
    parameters: Mapping[str, Sequence[Any]], values: Sequence[float]
) -> dict[str, float]:
    """Returns each parameter's share in the variance of the values, by fANOVA.

    Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance" (2014), over a
    random forest. Empty for few runs, or for fewer than two parameters.
    """
    if len(values) < MIN_RUNS or len(set(values)) < 2 or len(parameters) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _distribution(column) for name, column in parameters.items()}
    study = optuna.create_study()
    for value, *point in zip(values, *parameters.values(), strict=True):
        params = dict(zip(parameters, point, strict=True))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _distribution(values: Sequence[Any]) -> Any:
    """Returns the Optuna distribution that holds a parameter's values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if are_numbers(values):
        return FloatDistribution(min(values), max(values), log=spans_decades(values))
    return CategoricalDistribution(list(dict.fromkeys(values)))


def spans_decades(values: Sequence[float]) -> bool:
    """Returns True for positive numbers that a logarithmic axis shows better."""
    return min(values) > 0 and max(values) >= 10 * min(values)
