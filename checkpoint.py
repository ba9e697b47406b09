"""Train states on the disk, by Orbax: the newest few, and the best by validation loss."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import linen as nn
from flax.training.train_state import TrainState
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

import models
from errors import UserError
from input_pipeline import tokenizers
from tracking import run_folder

BEST_BY = "val/loss"


class Checkpoints:
    """The checkpoints of one run folder.

    A checkpoint is the parameters, the optimizer's state, and the run's `progress`: the few
    numbers that a resumed run needs beside them to go on as if it had never stopped.
    """

    def __init__(self, workdir: Path, keep: int = 1):
        best = dict(get_metric_fn=lambda metrics: metrics[BEST_BY], reverse=True, n=1)
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(**best, keep_checkpoints_without_metrics=False),
            ]
        )
        self._path = workdir / run_folder.CHECKPOINTS
        self._manager = ocp.CheckpointManager(
            self._path.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy, best_fn=best["get_metric_fn"], best_mode="min"
            ),
        )

    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None if there is none."""
        return self._manager.latest_step()

    def find(self, which: str) -> int:
        """The step that `which` means: "best", "latest" or a step's number.

        Raises UserError if there is no such checkpoint.
        """
        steps = list(self._manager.all_steps())
        if not steps:
            raise UserError(f"{self._path} holds no checkpoint: the run has not come to one yet")
        if which == "latest":
            return max(steps)
        if which == "best":
            best = self._manager.best_step()
            return max(steps) if best is None else best
        if which.isdecimal() and int(which) in steps:
            return int(which)
        kept = ", ".join(map(str, sorted(steps)))
        raise UserError(f"checkpoint {which!r} is none of: best, latest, {kept}")

    def save(self, step: int, state: TrainState, progress: dict, val_loss: float | None) -> None:
        """Starts writing, and returns when the arrays have been copied."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                opt_state=ocp.args.StandardSave(state.opt_state),
                progress=ocp.args.JsonSave(progress),
            ),
            metrics=None if val_loss is None else {BEST_BY: val_loss},
        )

    def wait(self) -> None:
        """Returns when what was saved is on the disk."""
        self._manager.wait_until_finished()

    def restore(self, step: int, state: TrainState) -> tuple[TrainState, dict]:
        """The state and progress of `step`; arrays are laid out over the devices as `state`'s."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(state.params),
                opt_state=ocp.args.StandardRestore(state.opt_state),
                progress=ocp.args.JsonRestore(),
            ),
        )
        # `* 0 + step` keeps the layout that the counter of a fresh state has.
        state = state.replace(
            step=state.step * 0 + step, params=restored.params, opt_state=restored.opt_state
        )
        return state, restored.progress

    def restore_params(self, step: int, params: Any) -> Any:
        """The parameters of `step` alone; `params` gives shapes (eval_shape's) or arrays."""
        args = ocp.args.Composite(params=ocp.args.StandardRestore(params))
        return self._manager.restore(step, args=args).params

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()


class Trained(NamedTuple):
    """A model out of a run folder, ready to be used."""

    config: ConfigDict
    tokenizer: tokenizers.Tokenizer
    model: nn.Module
    params: Any
    step: int


def load(workdir: Path, which: str) -> Trained:
    """The model of a finished or running run; `which` checkpoint as for `Checkpoints.find`.

    Raises UserError for a folder that holds no run, or no such checkpoint.
    """
    config = ConfigDict(run_folder.read_json(workdir / run_folder.CONFIG))
    tokenizer = tokenizers.load(workdir / run_folder.TOKENIZER)
    model = models.build(config.model, tokenizer.vocab_size)
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.find(which)
        tokens_11 = jnp.zeros((1, 1), jnp.int32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_11)["params"]
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.tree.map(lambda x: x.update(sharding=sharding), shapes)
        params = checkpoints.restore_params(step, shapes)
    return Trained(config, tokenizer, model, params, step)
