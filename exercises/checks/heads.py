"""Attention of the real modules with weights that a learner has set by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import models
from exercises.compare import array
from exercises.learner import Answer, Wrong
from experiments import default
from inspection import heads

LENGTH, NUM_TOKENS = 16, 7
ENOUGH = 0.9


def weights(answer: Answer, name: str, num_heads: int, widest: int) -> np.ndarray:
    """Returns the attention weights [H, T, S] of the position, query and key of an answer.

    Raises Wrong for what can't be loaded.
    """
    given = answer.call(name)
    if not isinstance(given, dict):
        raise Wrong(f"{name} returned {type(given).__name__}: expected a dict of three arrays")
    keys = ("position", "query", "key")
    if missing := [key for key in keys if key not in given]:
        raise Wrong(f"{name} returned a dict without {missing[0]!r}: expected {', '.join(keys)}")
    found = {key: array(given[key], f"{name}()[{key!r}]") for key in keys}
    shape = found["position"].shape
    if len(shape) != 2 or shape[0] != LENGTH or not 1 <= shape[1] <= widest or shape[1] % num_heads:
        even = f", divisible by {num_heads}," * (num_heads > 1)
        raise Wrong(
            f"{name}()['position'] has shape {shape}: expected [T, D] with T = {LENGTH} "
            f"and D{even} at most {widest}"
        )
    D = shape[1]
    for key, values in found.items():
        if key != "position" and values.shape != (D, D):
            raise Wrong(f"{name}()[{key!r}] has shape {values.shape}: expected [D, D] = {(D, D)}")
        if not np.isfinite(values).all():
            raise Wrong(f"{name}()[{key!r}] has NaN or infinity: expected finite numbers")
    return _run(found, num_heads)


def _run(found: dict[str, np.ndarray], num_heads: int) -> np.ndarray:
    """Returns the weights of stage 2's model, or stage 3's, with these arrays and zeros."""
    D = found["position"].shape[1]
    stage = models.STAGES[default.LADDER[1 if num_heads == 1 else 2]]
    sizes = {"num_heads": num_heads} if num_heads > 1 else {}
    model = stage(NUM_TOKENS, context_length=LENGTH, embed_dim=D, **sizes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params: Any = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    params["embed"]["position"]["embedding"] = jnp.asarray(found["position"], jnp.float32)
    for key in ("query", "key"):
        params["attention"][key]["kernel"] = jnp.asarray(found[key], jnp.float32)
    tokens_T = jnp.arange(LENGTH, dtype=jnp.int32) % NUM_TOKENS
    return np.asarray(heads.weights_of_text(model, params, tokens_T)[0], np.float64)


def check_distance(weights_TS: np.ndarray, distance: int, who: str) -> float:
    """Returns the least weight on the position so far back.

    Raises Wrong for the first position that gives it too little, with where it looks instead.
    """
    rows = np.arange(distance, LENGTH)
    given = weights_TS[rows, rows - distance]
    if not np.isfinite(given).all():
        raise Wrong(f"{who}: the weights are NaN; expected smaller queries and keys")
    for t, weight in zip(rows, given, strict=True):
        if weight <= ENOUGH:
            best = int(weights_TS[t, : t + 1].argmax())
            instead = f"most, {weights_TS[t, best]:.2f}, goes {t - best} back"
            if t > best and np.ptp(weights_TS[t, : t + 1]) < 1e-3:
                instead = f"all {t + 1} get the same"
            elif best == t - distance:
                instead = "the scores are too close: multiply the query by a larger number"
            raise Wrong(
                f"{who}: position {t} gives {weight:.2f} to the position {distance} back, expected "
                f"more than {ENOUGH}; {instead}"
            )
    return float(given.min())
