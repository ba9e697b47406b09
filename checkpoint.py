"""Train states on the disk, by Orbax: the newest few, and the best by validation loss."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from flax.training.train_state import TrainState
from orbax.checkpoint.checkpoint_managers import preservation_policy

from errors import UserError
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

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.close()
