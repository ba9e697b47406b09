"""What is left of a run whose loss or gradient is not finite: where it began, and all to repeat it.

`diverged/` in the run folder has the form of a checkpoint: the parameters and the optimizer's state
from before the update, its batch of tokens and its gradient; checkpoint.json says of each layer
whether the gradient was finite.
"""

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
from checkpoints import on_disk
from runtime import devices
from training import train_step


class Finding(NamedTuple):
    """Where numbers stopped being finite; an empty name: nowhere."""

    output: str  # The first layer, in the forward pass, whose output is not finite.
    gradient: str  # The first layer that the backward pass reaches whose gradient is not finite.

    def __str__(self) -> str:
        at = self.gradient or "none (their squares are too large to add up)"
        words = f"the first layer whose gradient is not finite, in the backward pass, is {at}"
        if self.output:
            words += f"; in the forward pass {self.output} is the first whose output is not"
        return words


def examine(
    model: nn.Module,
    state: TrainState,
    batch_BT: np.ndarray,
    *,
    seed: int,
    num_parts: int,
    objective: train_step.Objective,
    mesh: Mesh,
    workdir: Path,
) -> Finding:
    """Looks at the update `state.step + 1`, of this batch, and keeps it in `diverged/`.

    Raises OSError if it can't be kept.
    """
    batch_BT = np.ascontiguousarray(batch_BT, np.int32)
    batch_1BT = devices.split_batches(batch_BT[None], mesh)
    loss, grads = jax.jit(
        lambda state, batch_1BT: train_step.gradient_of(
            state, batch_1BT[0], jnp.uint32(seed), num_parts, objective
        )
    )(state, batch_1BT)
    layers = {
        name: np.asarray(jnp.stack([jnp.isfinite(leaf).all(), jnp.abs(leaf).max()]))
        for name, leaf in _in_order(grads, parameter_order(model)).items()
    }
    bad = [name for name, (finite, _) in layers.items() if not finite]
    gradient = bad[-1].rpartition("/")[0] if bad else ""
    # Row by row of the batch: all outputs of all layers are in memory at once.
    outputs = (first_bad_output(model, state.params, row_T[None, :-1]) for row_T in batch_BT)
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
    on_disk.write(workdir / run_folder.DIVERGED, trees, about)
    return finding


def parameter_order(model: nn.Module) -> list[str]:
    """The names of a model's parameters in the order in which the forward pass uses them first."""
    order = []

    def init(tokens_BT):
        params = model.init(jax.random.key(0), tokens_BT)["params"]
        order.extend(flatten_dict(params, sep="/"))  # JAX itself would sort them.

    jax.eval_shape(init, jax.ShapeDtypeStruct((1, 1), jnp.int32))
    return order


def first_bad_output(model: nn.Module, params: Any, tokens_BT: np.ndarray) -> str:
    """The first layer whose output is not finite in a forward pass without dropout."""
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
    leaves = on_disk.named_leaves(tree)
    return {name: leaves[name] for name in order}
