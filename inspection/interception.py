"""Reads and edits activations of a model while it runs, by Flax's method interceptors.

A sub-module is named by its path in the tree of modules, "block_0/attention/out". The reference
implementations run, whose attention weights pass through a sub-module `weights` of their own
(models/layers/attention.py), so that they are read and replaced like any other activation.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import reference

Edit = Callable[[jax.Array], jax.Array]
Edits = Mapping[str, Edit]
WEIGHTS = "/weights"


class Activations(NamedTuple):
    """Logits of a call, and the first argument and the result of each sub-module, in its order."""

    logits: jax.Array
    inputs: dict[str, jax.Array]
    outputs: dict[str, jax.Array]


class Attention(NamedTuple):
    """Attention module of a model."""

    path: str
    num_heads: int
    has_projection: bool  # An output projection, `out`; without it one head is the output.

    @property
    def weights(self) -> str:
        """The path of its weights, [B, H, T, S]; without the axis H if it has none."""
        return self.path + WEIGHTS

    @property
    def heads_path(self) -> str:
        """The path of the module whose input, or without a projection output, is the heads'."""
        return f"{self.path}/out" if self.has_projection else self.path

    def heads(self, seen: Activations) -> jax.Array:
        """Returns the heads' outputs, [B, T, H, K]."""
        values = seen.inputs if self.has_projection else seen.outputs
        return self.split(values[self.heads_path])

    def split(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D] as [B, T, H, K]."""
        return x_BTD.reshape(*x_BTD.shape[:2], self.num_heads, -1)


def run(
    model: nn.Module,
    params: Any,
    tokens_BT: jax.Array,
    *,
    inputs: Edits | None = None,
    outputs: Edits | None = None,
) -> Activations:
    """Runs a model with edits of the inputs and the outputs of sub-modules, by their paths.

    Raises KeyError for a path that the model does not have.
    """
    edits = dict(inputs or {}), dict(outputs or {})
    seen = Activations(jnp.zeros(0), {}, {})

    def intercept(call, args, kwargs, context):
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = "/".join(context.module.path)
        if args and path in edits[0]:
            args = (edits[0].pop(path)(args[0]), *args[1:])
        out = call(*args, **kwargs)
        if path in edits[1]:
            out = edits[1].pop(path)(out)
        if args:
            seen.inputs[path] = args[0]
        seen.outputs[path] = out
        return out

    with reference.forced(), nn.intercept_methods(intercept):
        logits_BTV = model.apply({"params": params}, tokens_BT)
    assert isinstance(logits_BTV, jax.Array)
    if missing := {**edits[0], **edits[1]}:
        raise KeyError(f"no sub-module {', '.join(missing)}")
    return seen._replace(logits=logits_BTV)


def head_edits(
    found: Sequence[Attention], edit: Callable[[int, jax.Array], jax.Array]
) -> dict[str, Edits]:
    """Returns the options of `run` that edit the heads' outputs [B, T, H, K] of attention i."""

    def edit_heads(i: int, x_BTD: jax.Array) -> jax.Array:
        return edit(i, found[i].split(x_BTD)).reshape(x_BTD.shape)

    edits: dict[str, dict[str, Edit]] = {"inputs": {}, "outputs": {}}
    for i, attention in enumerate(found):
        where = "inputs" if attention.has_projection else "outputs"
        edits[where][attention.heads_path] = partial(edit_heads, i)
    return dict(edits)


def shapes(model: nn.Module, params: Any) -> Activations:
    """Returns the shapes of the activations of one token, without computing them."""
    token_11 = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(partial(run, model), params, token_11)


def module(model: nn.Module, params: Any, path: str) -> nn.Module:
    """Returns a sub-module with its sizes; it is not bound to parameters."""
    found = {}

    def intercept(call, args, kwargs, context):
        found["/".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        shapes(model, params)
    return found[path]


def attentions(model: nn.Module, params: Any) -> list[Attention]:
    """Returns a model's attention modules, first to last: those that have weights."""
    seen = shapes(model, params)
    found = []
    for path, weights in seen.outputs.items():
        if path.endswith(WEIGHTS):
            own = path.removesuffix(WEIGHTS)
            num_heads = weights.shape[1] if len(weights.shape) == 4 else 1
            found.append(Attention(own, num_heads, f"{own}/out" in seen.inputs))
    return found
