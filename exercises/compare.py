"""Compares an answer with what is expected: its type, its shape, the first difference.

A table of classic mistakes, {what is wrong: what it returns}, explains a difference by its cause.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from exercises.learner import Wrong

# Or a function that returns them, where they take time.
Mistakes = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
TOLERANCE = 1e-5


def array(found: Any, name: str) -> np.ndarray:
    """Returns an answer as an array of floats. Raises Wrong for anything else."""
    if found is None:
        raise Wrong(f"{name} returned None: expected an array; does it end with return?")
    if found is NotImplemented or found is ...:
        raise Wrong(f"{name} returned {found}: expected an array")
    try:
        values = np.asarray(found)
    except Exception as error:
        raise Wrong(f"{name} returned rows of different lengths: expected an array") from error
    if values.dtype.kind not in "iuf":
        raise Wrong(f"{name} returned {_type(found)}: expected an array of numbers")
    return values.astype(np.float64)


def number(found: Any, name: str) -> float:
    """Returns an answer as a float. Raises Wrong for anything but one finite number."""
    if found is None:
        raise Wrong(f"{name} returned None: expected a number; does it end with return?")
    if isinstance(found, bool | str) or np.ndim(found) or not np.isreal(found):
        raise Wrong(f"{name} returned {_type(found)}: expected a number")
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise Wrong(f"{name} returned {_type(found)}: expected a number") from None
    if not np.isfinite(value):
        raise Wrong(f"{name} returned {value}: expected a finite number")
    return value


def whole(found: Any, name: str) -> int:
    """Returns an answer as an int. Raises Wrong for anything but a whole number."""
    value = number(found, name)
    if value != round(value):
        raise Wrong(f"{name} returned {value:g}: expected a whole number")
    return round(value)


def same(
    found: Any,
    expected: np.ndarray,
    name: str,
    axes: str,
    mistakes: Mistakes | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Raises Wrong where an array differs; `axes` has a letter for each of its axes."""
    values = array(found, name)
    expected = np.asarray(expected, np.float64)
    if values.shape == expected.shape and _close(values, expected, tolerance):
        return
    cause = explain(values, mistakes or {}, tolerance)
    because = f"{cause}; " if cause else ""
    if values.shape != expected.shape:
        raise Wrong(
            f"{because}{name} returned shape {values.shape}: expected "
            f"[{', '.join(axes)}] = {expected.shape}"
        )
    place = first_difference(values, expected, tolerance)
    at = ", ".join(f"{axis.lower()}={index}" for axis, index in zip(axes, place, strict=True))
    raise Wrong(
        f"{because}{name} at {at}: expected {expected[place]:.6g}, found {values[place]:.6g}"
    )


def same_number(
    found: Any,
    expected: float,
    name: str,
    mistakes: Mistakes | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Raises Wrong for a number that differs, and names the mistake if it is a known one."""
    value = number(found, name)
    if not abs(value - expected) <= tolerance * max(1, abs(expected)):
        cause = explain(np.array(value), mistakes or {}, tolerance)
        because = f"{cause}; " if cause else ""
        raise Wrong(f"{because}{name}: expected {expected:.6g}, found {value:.6g}")


def explain(found: np.ndarray, mistakes: Mistakes, tolerance: float = TOLERANCE) -> str:
    """Returns the name of the first mistake that gives these values, else "".

    What a mistake makes NaN is not compared.
    """
    table = mistakes() if callable(mistakes) else mistakes
    for name, values in table.items():
        wrong = np.asarray(values, np.float64)
        if wrong.shape != found.shape:
            continue
        known = ~np.isnan(wrong)
        if known.mean() >= 0.5 and _close(found[known], wrong[known], tolerance):
            return name
    return ""


def first_difference(
    found: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE
) -> tuple[int, ...]:
    """Returns the first place where two arrays of one shape differ; NaN differs from all."""
    bad = ~(np.abs(found - expected) <= tolerance * np.maximum(1, np.abs(expected)))
    return tuple(int(index) for index in np.argwhere(bad)[0])


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    with np.errstate(invalid="ignore"):
        limit = tolerance * np.maximum(1, np.abs(expected))
        return bool(np.all((found == expected) | (np.abs(found - expected) <= limit)))


def _type(found: Any) -> str:
    if isinstance(found, np.ndarray):
        return f"an array of {found.dtype}"
    kind = type(found).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
