"""Distributions of a W&B sweep file, each as its inverse CDF: from u in [0, 1] to a value.

A uniform u gives a value of the distribution, so random and Bayesian search work in [0, 1] alone.
Names and meanings are W&B's: https://docs.wandb.ai/models/sweeps/sweep-config-keys
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from runtime.errors import UserError

# Away from 0 and 1, where a normal distribution has no finite value.
EDGE = 1e-12
BOUNDS = ("min", "max")
# Integers above are not exact as floats, from which a search takes them.
MAX_INTEGER = 2**53
# Values that a grid takes from a distribution.
MAX_VALUES = 1_000_000
# Required options of each distribution, and optional ones with their defaults.
OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "constant": (("value",), {}),
    "categorical": (("values",), {}),
    "categorical_w_probabilities": (("values", "probabilities"), {}),
    "int_uniform": (BOUNDS, {}),
    "uniform": (BOUNDS, {}),
    "q_uniform": (BOUNDS, {"q": 1.0}),
    "log_uniform": (BOUNDS, {}),
    "log_uniform_values": (BOUNDS, {}),
    "q_log_uniform": (BOUNDS, {"q": 1.0}),
    "q_log_uniform_values": (BOUNDS, {"q": 1.0}),
    "inv_log_uniform": (BOUNDS, {}),
    "inv_log_uniform_values": (BOUNDS, {}),
    "normal": ((), {"mu": 0.0, "sigma": 1.0}),
    "q_normal": ((), {"mu": 0.0, "sigma": 1.0, "q": 1.0}),
    "log_normal": ((), {"mu": 0.0, "sigma": 1.0}),
    "q_log_normal": ((), {"mu": 0.0, "sigma": 1.0, "q": 1.0}),
    "beta": ((), {"a": 1.0, "b": 1.0}),
    "q_beta": ((), {"a": 1.0, "b": 1.0, "q": 1.0}),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep: its flag's name, its distribution and the options of that."""

    name: str
    distribution: str
    options: dict[str, Any]

    def inverse_cdf(self, u: float) -> Any:
        """Returns the value at which the cumulative distribution function is `u`, in [0, 1]."""
        u = min(max(u, EDGE), 1 - EDGE)
        if choices := self._choices():
            return choices[math.ceil(u * len(choices)) - 1]
        if "probabilities" in self.options:
            cumulative = np.cumsum(self.options["probabilities"])
            index = np.searchsorted(cumulative, u, side="right")
            return self.options["values"][min(int(index), len(cumulative) - 1)]
        value = INVERSE_CDFS[self.distribution.removeprefix("q_")](u, self.options)
        if "q" not in self.options:
            return value
        q = self.options["q"]  # An integer gives integers.
        multiple = round(value / q) * q
        return int(multiple) if isinstance(q, int) else multiple

    def grid(self) -> Sequence[Any]:
        """Returns all values. Raises UserError if there are infinitely many."""
        if choices := self._choices():
            return choices
        if self.distribution == "q_uniform":
            options = self.options
            count = (options["max"] - options["min"]) / options["q"]
            if count > MAX_VALUES:
                raise UserError(
                    f"parameter {self.name!r} has {count:,.0f} values, from {options['min']} to "
                    f"{options['max']} by {options['q']}: expected {MAX_VALUES:,} at most; raise q"
                )
            return np.arange(options["min"], options["max"], options["q"]).tolist()
        raise UserError(
            f"parameter {self.name!r} has distribution {self.distribution}, which has infinitely "
            "many values, and method is grid: give it `values`, or set method to random or bayes"
        )

    def _choices(self) -> Sequence[Any]:
        """Returns all values of a uniform discrete distribution; nothing for any other."""
        match self.distribution:
            case "constant":
                return [self.options["value"]]
            case "categorical":
                return self.options["values"]
            case "int_uniform":
                return range(self.options["min"], self.options["max"] + 1)
        return ()


def _uniform(u: float, options: dict[str, Any]) -> float:
    return options["min"] + u * (options["max"] - options["min"])


def _log_uniform_values(u: float, options: dict[str, Any]) -> float:
    return math.exp(_uniform(u, {bound: math.log(options[bound]) for bound in BOUNDS}))


def _normal(u: float, options: dict[str, Any]) -> float:
    return NormalDist(options["mu"], options["sigma"]).inv_cdf(u)


def _beta(u: float, options: dict[str, Any]) -> float:
    from scipy.special import betaincinv

    return float(betaincinv(options["a"], options["b"], u))


# Bounds of log_uniform and inv_log_uniform are exponents of e, for x and for 1/x.
INVERSE_CDFS: dict[str, Callable[[float, dict[str, Any]], float]] = {
    "uniform": _uniform,
    "log_uniform": lambda u, options: math.exp(_uniform(u, options)),
    "log_uniform_values": _log_uniform_values,
    "inv_log_uniform": lambda u, options: math.exp(-_uniform(1 - u, options)),
    "inv_log_uniform_values": _log_uniform_values,  # The same distribution.
    "normal": _normal,
    "log_normal": lambda u, options: math.exp(_normal(u, options)),
    "beta": _beta,
}


def parse(name: str, content: Any) -> Parameter:
    """Returns a parameter. Raises UserError for what W&B would refuse or no flag can express."""
    where = f"parameter {name!r}"
    if not isinstance(content, dict):
        raise UserError(f"{where} is {content!r}: expected a mapping, such as value: {content!r}")
    if "parameters" in content:
        raise UserError(
            f"{where} has nested parameters, which would be passed as one flag: write the keys "
            f"flat, {name}.{next(iter(content['parameters'] or ['key']))}"
        )
    options = dict(content)
    distribution = options.pop("distribution", None) or _implied_distribution(content)
    if distribution not in OPTIONS:
        raise UserError(
            f"{where} has distribution {distribution!r}: expected one of {', '.join(OPTIONS)}"
        )
    required, defaults = OPTIONS[distribution]
    for key in options:
        if key not in (*required, *defaults):
            raise UserError(f"{where} has {key!r}, which distribution {distribution} does not take")
    for key in required:
        if key not in options:
            raise UserError(f"{where} lacks {key!r}, which distribution {distribution} needs")
    options = {**defaults, **options}
    _check_options(where, distribution, options)
    for value in [*_listed(options.get("values")), options.get("value")]:
        _check_value(where, value)
    if "values" in options:
        _check_values(where, options["values"], options.get("probabilities"))
    return Parameter(name, distribution, options)


def is_number(value: Any) -> bool:
    """Returns True for an int or a float, False for a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _implied_distribution(content: dict[str, Any]) -> str:
    """Returns W&B's distribution for a parameter that names none, or ""."""
    if "value" in content:
        return "constant"
    if "values" in content:
        return "categorical_w_probabilities" if "probabilities" in content else "categorical"
    if "min" in content and "max" in content:
        has_ints = all(type(content[bound]) is int for bound in BOUNDS)
        return "int_uniform" if has_ints else "uniform"
    return ""


def _check_options(where: str, distribution: str, options: dict[str, Any]) -> None:
    for key in (*BOUNDS, "q", "mu", "sigma", "a", "b"):
        value = options.get(key, 1)
        if not is_number(value):
            hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if isinstance(value, str) else ""
            raise UserError(f"{where} has {key} {value!r}: expected a number{hint}")
        if not abs(value) <= (MAX_INTEGER if isinstance(value, int) else sys.float_info.max):
            raise UserError(f"{where} has {key} {value}: expected a finite number up to 2**53")
        if key in ("q", "sigma", "a", "b") and value <= 0:
            raise UserError(f"{where} has {key} {value}: expected a positive number")
    if "min" in options:
        low, high = options["min"], options["max"]
        if low >= high:
            raise UserError(f"{where} has min {low} and max {high}: expected min below max")
        if distribution.endswith("log_uniform_values") and low <= 0:
            raise UserError(f"{where} has min {low}: {distribution} needs a positive number")
        if distribution == "int_uniform" and not (type(low) is int and type(high) is int):
            raise UserError(f"{where} has min {low} and max {high}: int_uniform needs integers")


def _listed(values: Any) -> list:
    return values if isinstance(values, list) else []


def _check_value(where: str, value: Any) -> None:
    """Raises UserError for what YAML makes of some words, and neither a flag nor JSON can hold."""
    parts = value if isinstance(value, list) else [value]
    if not all(part is None or isinstance(part, str | int | float) for part in parts):
        raise UserError(
            f"{where} has the value {value}, which YAML reads as a {type(value).__name__}: "
            "expected text, a number, true or false; write it in quotes"
        )
    if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
        raise UserError(f"{where} has the value {value}: expected a finite number")


def _check_values(where: str, values: Any, probabilities: Any) -> None:
    if not isinstance(values, list) or not values:
        raise UserError(f"{where} has values {values!r}: expected a list of at least one")
    if probabilities is None:
        return
    if not isinstance(probabilities, list) or len(probabilities) != len(values):
        raise UserError(f"{where} has {len(values)} values: expected as many probabilities")
    are_valid = all(isinstance(share, int | float) and share >= 0 for share in probabilities)
    if not are_valid or not math.isclose(sum(probabilities), 1, abs_tol=1e-6):
        raise UserError(
            f"{where} has probabilities {probabilities}: expected a sum of 1 and none below 0"
        )
