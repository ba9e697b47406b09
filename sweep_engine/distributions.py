"""The distributions of a W&B sweep file: each a map from a number u in [0, 1] to a value.

If u is uniform, the value has the distribution, so drawing at random and searching need to know
nothing but [0, 1]. Names and meanings are W&B's:
https://docs.wandb.ai/models/sweeps/sweep-config-keys
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.errors import UserError

# Away from 0 and 1, where a normal distribution has no finite value.
EDGE = 1e-12
BOUNDS = ("min", "max")
# What each must be given, and what it may be given with the value that holds otherwise.
KEYS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
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
    """One parameter of a sweep: its flag's name, its distribution and what that is given."""

    name: str
    distribution: str
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def is_constant(self) -> bool:
        """Whether all runs have the same value."""
        return self.distribution == "constant"

    @property
    def is_categorical(self) -> bool:
        """Whether the values are words without an order, all equally likely."""
        return self.distribution == "categorical"

    def value_at(self, u: float) -> Any:
        """The value that a share u of the distribution lies below."""
        if self.is_constant:
            return self.given["value"]
        u = min(max(u, EDGE), 1 - EDGE)
        if "values" in self.given:
            return self.given["values"][self._place(u)]
        if self.distribution == "int_uniform":
            low, high = self.given["min"], self.given["max"]
            return low + math.ceil(u * (high - low + 1)) - 1
        value = QUANTILES[self.distribution.removeprefix("q_")](u, self.given)
        return _quantised(value, self.given["q"]) if "q" in self.given else value

    def grid(self) -> list[Any]:
        """All values, for a grid. Raises UserError if there is no end of them."""
        match self.distribution:
            case "constant":
                return [self.given["value"]]
            case "categorical":
                return list(self.given["values"])
            case "int_uniform":
                return list(range(self.given["min"], self.given["max"] + 1))
            case "q_uniform":
                return np.arange(self.given["min"], self.given["max"], self.given["q"]).tolist()
        raise UserError(
            f"parameter {self.name!r} has distribution {self.distribution}, which has no end of "
            "values for a grid: give it `values`, or set method to random or bayes"
        )

    def _place(self, u: float) -> int:
        count = len(self.given["values"])
        if self.is_categorical:
            return math.ceil(u * count) - 1
        below = np.cumsum(self.given["probabilities"])
        return min(int(np.searchsorted(below, u, side="right")), count - 1)


def _uniform(u: float, given: dict) -> float:
    return given["min"] + u * (given["max"] - given["min"])


def _log_uniform(u: float, given: dict) -> float:
    return math.exp(_uniform(u, given))  # Bounds are exponents of e.


def _log_uniform_values(u: float, given: dict) -> float:
    return _log_uniform(u, {bound: math.log(given[bound]) for bound in BOUNDS})


def _inv_log_uniform(u: float, given: dict) -> float:
    return math.exp(-_uniform(1 - u, given))  # log(1/x) is uniform.


def _normal(u: float, given: dict) -> float:
    from scipy.special import ndtri

    return float(given["mu"] + given["sigma"] * ndtri(u))


def _beta(u: float, given: dict) -> float:
    from scipy.special import betaincinv

    return float(betaincinv(given["a"], given["b"], u))


QUANTILES: dict[str, Callable[[float, dict], float]] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "log_uniform_values": _log_uniform_values,
    "inv_log_uniform": _inv_log_uniform,
    "inv_log_uniform_values": _log_uniform_values,  # The same, said from the other end.
    "normal": _normal,
    "log_normal": lambda u, given: math.exp(_normal(u, given)),
    "beta": _beta,
}


def _quantised(value: float, q: float) -> float | int:
    """The multiple of q next to `value`; an integer if q is one."""
    multiple = round(value / q) * q
    return int(multiple) if isinstance(q, int) else multiple


def read(name: str, given: Any) -> Parameter:
    """The parameter that a sweep file describes by `given`.

    Raises UserError for anything that W&B would not take, or a flag can't be.
    """
    where = f"parameter {name!r}"
    if not isinstance(given, dict):
        raise UserError(f"{where} is {given!r}: expected a mapping, such as value: {given!r}")
    if "parameters" in given:
        raise UserError(
            f"{where} has nested parameters, which reach a program as one flag that none can "
            f"read: write the keys flat, {name}.{next(iter(given['parameters'] or ['key']))}"
        )
    distribution = given.get("distribution") or _implied(given)
    if distribution not in KEYS:
        raise UserError(f"{where} has distribution {distribution!r}: expected one of {_names()}")
    needed, defaults = KEYS[distribution]
    for key in given:
        if key not in (*needed, *defaults, "distribution"):
            raise UserError(f"{where} has {key!r}, which distribution {distribution} does not take")
    for key in needed:
        if key not in given:
            raise UserError(f"{where} lacks {key!r}, which distribution {distribution} needs")
    rest = {key: value for key, value in given.items() if key != "distribution"}
    parameter = Parameter(name, distribution, {**defaults, **rest})
    _check(where, parameter)
    return parameter


def _names() -> str:
    return ", ".join(KEYS)


def _implied(given: dict) -> str:
    """The distribution that goes without saying."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "min" in given and "max" in given:
        whole = all(type(given[bound]) is int for bound in BOUNDS)
        return "int_uniform" if whole else "uniform"
    return ""


def _check(where: str, parameter: Parameter) -> None:
    given, distribution = parameter.given, parameter.distribution
    for key in (*BOUNDS, "q", "mu", "sigma", "a", "b"):
        if key in given and (
            isinstance(given[key], bool) or not isinstance(given[key], int | float)
        ):
            hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if isinstance(given[key], str) else ""
            raise UserError(f"{where} has {key} {given[key]!r}: expected a number{hint}")
    if "min" in given and given["min"] >= given["max"]:
        raise UserError(f"{where} has min {given['min']} and max {given['max']}: min must be less")
    if distribution.endswith("log_uniform_values") and given["min"] <= 0:
        raise UserError(f"{where} has min {given['min']}: {distribution} needs more than 0")
    if distribution == "int_uniform" and not all(type(given[bound]) is int for bound in BOUNDS):
        raise UserError(f"{where} is int_uniform: min and max must be whole numbers")
    for key in ("q", "sigma", "a", "b"):
        if key in given and given[key] <= 0:
            raise UserError(f"{where} has {key} {given[key]}: expected more than 0")
    if "values" in given:
        _check_values(where, given)


def _check_values(where: str, given: dict) -> None:
    values, probabilities = given["values"], given.get("probabilities")
    if not isinstance(values, list) or not values:
        raise UserError(f"{where} has values {values!r}: expected a list of at least one")
    if probabilities is None:
        return
    if not isinstance(probabilities, list) or len(probabilities) != len(values):
        raise UserError(f"{where} has {len(values)} values: expected as many probabilities")
    fine = all(isinstance(share, int | float) and share >= 0 for share in probabilities)
    if not fine or not math.isclose(sum(probabilities), 1, abs_tol=1e-6):
        raise UserError(f"{where} has probabilities {probabilities}: expected a sum of 1, none < 0")
