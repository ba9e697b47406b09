"""Divergence: finds the layer where numbers stop being finite, and keeps all that repeats the step.

`diverged/` in the run folder has the format of a checkpoint: the parameters and the optimizer's
state from before the step, its batch of tokens and its gradient. Its checkpoint.json lists for each
layer whether the gradient was finite.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

import run_folder
from checkpoints import file_format
from runtime import devices
from runtime.errors import Diverged
from training.loss import Objective, loss_and_gradient
from training.step import Metrics


class Finding(NamedTuple):
    """The layers where numbers first are not finite; an empty name if there is none."""

    output: str  # In the forward pass: the layer's output.
    gradient: str  # In the backward pass: the layer's gradient.

    def __str__(self) -> str:
        at = self.gradient or "none (their squares are too large to add up)"
        words = f"the first layer whose gradient is not finite, in the backward pass, is {at}"
        if self.output:
            words += f"; in the forward pass {self.output} is the first whose output is not"
        return words


def mistake_in(metrics: Metrics, step: int, max_skipped: int) -> str:
    """Returns what is not finite, after more skipped steps than allowed; "" if nothing is."""
    if metrics.skipped <= max_skipped:
        return ""
    name = "grad_norm" if math.isfinite(metrics.loss) else "loss"
    skipped = f" after {max_skipped} skipped steps" if max_skipped else ""
    return f"train/{name} is {getattr(metrics, name)} at step {step}{skipped}"


def diverged(mistake: str, account: str, learning_rate: float) -> Diverged:
    """Returns the error that ends the run; `account` is of `account_of`."""
    return Diverged(
        f"{mistake}: training diverged; {account}; try a smaller "
        f"--config.optimizer.learning_rate than {learning_rate}, or a higher "
        "--config.train.max_skipped_updates"
    )


def account_of(model: nn.Module, state: TrainState, batch_BT: np.ndarray, **settings: Any) -> str:
    """Returns in words the layer where numbers stopped being finite, and where the proof is kept.

    Takes the arguments of `examine`. Raises nothing for a full disk or memory: says so instead.
    """
    try:
        finding = examine(model, state, batch_BT, **settings)
    # Examining takes some more memory than training.
    except (OSError, jax.errors.JaxRuntimeError) as error:
        return f"the layer where it began is unknown; nothing of the step could be kept ({error})"
    folder = settings["workdir"] / run_folder.DIVERGED
    return f"{finding}; its batch, gradient and state are in {folder}"


def examine(
    model: nn.Module,
    state: TrainState,
    batch_BT: np.ndarray,
    *,
    seed: int,
    num_parts: int,
    objective: Objective,
    mesh: Mesh,
    workdir: Path,
) -> Finding:
    """Finds the layers that are not finite in step `state.step + 1`, and keeps it in `diverged/`.

    Raises OSError if it can't be kept.
    """
    batch_BT = np.ascontiguousarray(batch_BT, np.int32)
    batch_1BT = devices.split_batches(batch_BT[None], mesh)
    loss, grads = jax.jit(
        lambda state, batch_1BT: loss_and_gradient(
            state, batch_1BT[0], jnp.uint32(seed), num_parts, objective
        )
    )(state, batch_1BT)
    layers = {
        name: np.asarray(jnp.stack([jnp.isfinite(leaf).all(), jnp.abs(leaf).max()]))
        for name, leaf in _in_order(grads, parameter_order(model)).items()
    }
    bad = [name for name, (finite, _) in layers.items() if not finite]
    gradient = bad[-1].rpartition("/")[0] if bad else ""
    # Row by row of the batch, for the outputs of all layers are in memory at once.
    tokens_BT = np.maximum(batch_BT, ~batch_BT)  # Of pairs: see input_pipeline/pairs.py.
    outputs = (first_bad_output(model, state.params, row_T[None, :-1]) for row_T in tokens_BT)
    finding = Finding(next(filter(None, outputs), ""), gradient)
    about = {
        "step": int(state.step) + 1,
        "train/loss": float(loss),
        **finding._asdict(),
        "layers": {
            name: {"finite": bool(finite), "largest": float(largest)}
            for name, (finite, largest) in layers.items()
        },
    }
    trees = jax.device_get({"params": state.params, "opt_state": state.opt_state, "grads": grads})
    trees["batch"] = {"tokens": batch_BT}
    file_format.write(workdir / run_folder.DIVERGED, trees, about)
    return finding


def parameter_order(model: nn.Module) -> list[str]:
    """Returns the names of a model's parameters in the order of their first use, forward."""
    order = []

    def init(tokens_BT):
        params = model.init(jax.random.key(0), tokens_BT)["params"]
        order.extend(flatten_dict(params, sep="/"))  # JAX itself would sort them.

    jax.eval_shape(init, jax.ShapeDtypeStruct((1, 1), jnp.int32))
    return order


def first_bad_output(model: nn.Module, params: Any, tokens_BT: np.ndarray) -> str:
    """Returns the first layer with an output that is not finite, without dropout; "" for none."""
    _, variables = model.apply(
        {"params": params},
        jnp.asarray(tokens_BT),
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    for path, (output, *_) in flatten_dict(variables["intermediates"]).items():
        if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(output)):
            return "/".join(path[:-1]) or "the logits"
    return ""


def _in_order(tree: Any, order: list[str]) -> dict[str, jax.Array]:
    leaves = file_format.named_leaves(tree)
    return {name: leaves[name] for name in order}
