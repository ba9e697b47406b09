"""Writes a Flax module and its parameters as JSON that `models/*.js` computes.

The tree of modules is read from the module itself, while it is called on one token: the class of
each sub-module, its fields and its parameters. A class that the JavaScript lacks is refused, so a
model is either computed as it is or not at all; and `check` gives the page a text with the
probabilities that JAX computes, so that a page whose code computes something else says so.
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import intercept_methods
from flax.traverse_util import flatten_dict

from playground_page import scripts
from runtime.errors import UserError

# The types that parameters can have in the page, and their names.
DTYPES = {"float16": np.float16, "float32": np.float32}
# Modules that act in training alone.
IDLE = ("Dropout",)
# Ends a line that refuses a model.
ADVICE = "generate.py takes it"
# Tokens that a page checks itself with, and as many whose probabilities it compares.
CHECKED = 16


def rounded(params: Any, dtype: str, name: str) -> Any:
    """Returns float32 parameters rounded to `dtype`.

    Raises UserError, which names the run, if a parameter is not finite, or too large for `dtype`.
    """

    def round_leaf(leaf: jax.Array) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(leaf, np.float32).astype(DTYPES[dtype]).astype(np.float32)

    made = jax.tree.map(round_leaf, params)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(made)):
        advice = f"try --dtype=float32; {ADVICE}" if dtype != "float32" else "train it again"
        raise UserError(f"{name} has parameters that are not finite in {dtype}: {advice}")
    return made


def export(model: nn.Module, params: Any, dtype: str, name: str) -> dict[str, Any]:
    """Returns the tree of a model's modules, each with its class, fields, parameters and children.

    Parameters are [shape, base64 of little-endian numbers of type `dtype`]. Raises UserError, which
    names the run, for a module that the page can't compute.
    """
    leaves = flatten_dict(params)
    root: dict[str, Any] = {}
    for path, module in modules(model, params).items():
        class_name = type(module).__name__
        if class_name in IDLE:
            continue
        if class_name not in (scripts.computable() if path else scripts.stages()):
            raise UserError(
                f"{name} has a module {class_name}, at {'/'.join(path) or 'the top'}, that "
                f"playground.py can't carry: expected those of models/; {ADVICE}"
            )
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node |= {"class": class_name, **_plain_fields(module)}
    for path, leaf in leaves.items():
        node = root
        for part in path[:-1]:
            node = node.setdefault(part, {})
        if "class" not in node:
            raise UserError(
                f"{name} has parameters at {'/'.join(path)} that no module has read, so "
                f"playground.py can't carry it; {ADVICE}"
            )
        numbers = np.asarray(leaf, np.dtype(DTYPES[dtype]).newbyteorder("<"))
        node[path[-1]] = [list(leaf.shape), base64.b64encode(numbers.tobytes()).decode()]
    return root


def check(
    model: nn.Module, params: Any, vocab_size: int, context_length: int, name: str
) -> dict[str, Any]:
    """Returns some tokens, and the log probabilities of some tokens after each, as JAX has them.

    Raises UserError, which names the run, if one is not finite.
    """
    tokens = np.arange(min(CHECKED, context_length)) * 7 % vocab_size
    ids = np.unique(np.linspace(0, vocab_size - 1, CHECKED).astype(int))
    logits_TV = model.apply({"params": params}, jnp.asarray(tokens[None]))[0]
    log_p_TV = np.asarray(jax.nn.log_softmax(logits_TV))[:, ids]
    if not np.isfinite(log_p_TV).all():
        raise UserError(f"{name} computes probabilities that are not finite: train it again")
    return {"tokens": tokens.tolist(), "ids": ids.tolist(), "log_p": log_p_TV.tolist()}


def modules(model: nn.Module, params: Any) -> dict[tuple[str, ...], nn.Module]:
    """Returns each module that takes part in a call, by its path, parents first."""
    found: dict[tuple[str, ...], nn.Module] = {}

    def intercept(call, args, kwargs, context):
        found.setdefault(context.module.path, context.module)
        return call(*args, **kwargs)

    with intercept_methods(intercept):
        jax.eval_shape(lambda: model.apply({"params": params}, jnp.zeros((1, 1), jnp.int32)))
    return dict(sorted(found.items()))


def switches(root: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the heads and the MLPs of an exported model, with the names that the page has.

    Layers and heads count from 1, as people do.
    """
    heads: list[dict[str, Any]] = []
    mlps: list[dict[str, Any]] = []
    for path, node in _walk(root):
        layer = int(found[0]) + 1 if (found := re.findall(r"block_(\d+)", path)) else 1
        if "query" in node:
            heads += [
                {"name": f"{path}/{head}", "layer": layer, "head": head + 1}
                for head in range(node.get("num_heads", 1))
            ]
        elif "up" in node:
            mlps.append({"name": path, "layer": layer})
    return {
        "heads": sorted(heads, key=lambda one: (one["layer"], one["head"])),
        "mlps": sorted(mlps, key=lambda one: one["layer"]),
    }


def _walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the path and the node of each module below one."""
    for name, child in node.items():
        if isinstance(child, dict):
            below = f"{path}/{name}" if path else name
            yield below, child
            yield from _walk(child, below)


def _plain_fields(module: nn.Module) -> dict[str, Any]:
    """Returns the fields of a module that are numbers, truth values or texts."""
    values = {field.name: getattr(module, field.name) for field in fields(module)}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, bool | int | float | str) and name not in ("parent", "name")
    }
