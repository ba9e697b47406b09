"""Magnitudes of gradients and activations on a fixed batch, by a model's top-level sub-modules."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from inference import metrics
from inspection import interception, windows
from runtime import programs

BATCH = 16  # Windows.


@partial(jax.jit, static_argnames="model")
def of_batch(
    model: nn.Module, params: Any, windows_BT: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Returns the norm of each part of the loss's gradient, and the root mean square of outputs."""
    inputs_BT, targets_BT = windows_BT[:, :-1], windows_BT[:, 1:]

    def loss(params: Any) -> jax.Array:
        logits_BTV = model.apply({"params": params}, inputs_BT)
        assert isinstance(logits_BTV, jax.Array)
        return metrics.next_token_nats(logits_BTV, targets_BT).mean()

    gradient = jax.grad(loss)(params)
    seen = interception.run(model, params, inputs_BT)
    # Sub-modules with parameters, and what the model returns.
    outputs = {path: output for path, output in seen.outputs.items() if path in params}
    outputs["logits"] = seen.logits
    sizes = {name: jnp.sqrt(jnp.mean(output**2)) for name, output in outputs.items()}
    return {name: optax.tree.norm(part) for name, part in gradient.items()}, sizes


def measure(model: nn.Module, params: Any, tokens: np.ndarray, context_length: int) -> dict:
    """Returns `gradients` and `activations` by sub-module, on the same windows for all models."""
    args = (params, windows.spread(tokens, context_length)[:BATCH])
    found = programs.for_model(of_batch, (model,), args)(*args)
    return {
        what: {name: float(f"{float(value):.4g}") for name, value in of_parts.items()}
        for what, of_parts in zip(("gradients", "activations"), found, strict=True)
    }
