"""The train states of a run: the newest few, and the best by validation loss.

Saving goes on beside the training, in a thread. A save that fails is reported and is no
checkpoint; the next one is tried as if nothing had happened. A checkpoint that is damaged is
passed over for the one before it, with a warning that names both.
"""

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

import models
import run_folder
from checkpoints import on_disk
from checkpoints.on_disk import Damaged
from config import check
from input_pipeline import tokenizers
from input_pipeline.text_files import digest
from runtime import devices
from runtime.errors import Failed, UserError

BEST_BY = "val/loss"
# Times to look again where a running run has removed a checkpoint while it was read.
TRIES = 100


class Restored(NamedTuple):
    """What a run goes on from. `progress` has the few numbers it needs beside the state."""

    step: int
    state: TrainState
    progress: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(
        self, workdir: Path, keep: int = 1, note: Callable[[str], None] | None = None
    ) -> None:
        """`note` is told what a person should know; without it, standard error is."""
        self._path = workdir / run_folder.CHECKPOINTS
        self._tokenizer = workdir / run_folder.TOKENIZER
        self._keep = keep
        self.note = note or (lambda message: print(f"warning: {message}", file=sys.stderr))
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._saving: tuple[int, Future] | None = None

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, damaged or not, oldest first."""
        names = [path.name for path in self._path.iterdir()] if self._path.is_dir() else []
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None if there is none."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step of the lowest validation loss; None if no checkpoint has one."""
        scored = []
        for step in self.steps():
            try:
                loss = on_disk.read_about(self._folder(step)).get(BEST_BY)
            except Damaged:
                continue
            if isinstance(loss, int | float):
                scored.append((loss, step))
        return min(scored)[1] if scored else None

    def find(self, which: str) -> list[int]:
        """The steps that may stand for `which` ("best", "latest" or a step), the first one first.

        Raises UserError if there is no such checkpoint.
        """
        newest_first = self.steps()[::-1]
        if not newest_first:
            raise UserError(f"{self._path} holds no checkpoint: the run has not come to one yet")
        if which == "latest":
            return newest_first
        if which == "best":
            best = self.best_step()
            return newest_first if best is None else list(dict.fromkeys([best, *newest_first]))
        if which in map(str, newest_first):
            return [int(which)]
        kept = ", ".join(map(str, reversed(newest_first)))
        raise UserError(f"checkpoint {which!r} is none of: best, latest, {kept}")

    def save(self, step: int, state: TrainState, progress: dict, val_loss: float | None) -> None:
        """Starts writing, and returns when the arrays have been copied."""
        self.wait()
        # Copies: the next update is written where these arrays are.
        trees = jax.tree.map(
            lambda leaf: np.array(leaf, copy=True),
            jax.device_get({"params": state.params, "opt_state": state.opt_state}),
        )
        tokenizer = digest([self._tokenizer])
        about = {"step": step, "progress": progress, BEST_BY: val_loss, "tokenizer": tokenizer}
        self._saving = step, self._thread.submit(self._write, step, trees, about)

    def wait(self) -> bool:
        """Returns when what was saved is on the disk; False, after a note, if it is not."""
        saving, self._saving = self._saving, None
        if saving is None:
            return True
        try:
            saving[1].result()
        except (OSError, ValueError) as error:
            self.note(
                f"The checkpoint of step {saving[0]} was not saved ({error}); the next one is "
                "tried as planned."
            )
            return False
        return True

    def require_saved(self) -> None:
        """Returns when what was saved is on the disk. Raises Failed if it could not be saved."""
        if self.wait():
            return
        newest = self.latest_step()
        kept = "there is none before it" if newest is None else f"that of step {newest} is kept"
        raise Failed(
            f"{self._path.parent}: the last checkpoint could not be saved, for the reason noted "
            f"above, and {kept}: mend that and resume with --config.checkpoint.resume=true"
        )

    def report(self) -> None:
        """Notes a save that has failed meanwhile; does not wait for one that is under way."""
        if self._saving and self._saving[1].done():
            self.wait()

    def restore(self, state: TrainState) -> Restored | None:
        """The newest state that is whole, laid out over the devices as `state`; None without any.

        Damaged ones after it are set aside. Raises UserError if there are checkpoints but none is
        whole, or if one does not fit.
        """
        damaged = {}
        for step in self.steps()[::-1]:
            folder = self._folder(step)
            try:
                progress = _progress(on_disk.read_about(folder))
                self._check_about(folder)
                params = on_disk.read(folder, "params", state.params)
                opt_state = on_disk.read(folder, "opt_state", state.opt_state)
            except Damaged as error:
                damaged[step] = error
                continue
            self._set_aside(damaged, step)
            # `* 0 + step` keeps the layout that the counter of a fresh state has.
            state = state.replace(step=state.step * 0 + step, params=params, opt_state=opt_state)
            return Restored(step, state, progress)
        if damaged:
            raise UserError(f"{self._path}: {_list(damaged)}: start anew in another folder")
        return None

    def restore_params(self, which: str, params: Any) -> tuple[int, Any]:
        """The step that `which` came to, and its parameters alone, as the arrays of `params`.

        Raises UserError if there is no such checkpoint, if it is damaged and no other may stand
        for it, or if it does not fit.
        """
        for _ in range(TRIES):
            damaged, found = {}, None
            for step in self.find(which):
                try:
                    self._check_about(self._folder(step))
                    found = step, on_disk.read(self._folder(step), "params", params)
                    break
                except (Damaged, FileNotFoundError) as error:
                    damaged[step] = error
            if all(self._folder(one).exists() for one in damaged):
                break
            # One was removed in between by the run: there is a newer one.
        if found is None:
            raise UserError(f"{self._path}: {_list(damaged)}: name another by --checkpoint")
        if damaged:
            self.note(f"{self._path}: {_list(damaged)}: taking that of step {found[0]}")
        return found

    def _folder(self, step: int) -> Path:
        return self._path / str(step)

    def _check_about(self, folder: Path) -> None:
        """Raises Damaged under another step's name, UserError if another tokenizer made it.

        A tokenizer of the same size would fit, and every character come out as another.
        """
        about = on_disk.read_about(folder)
        if about.get("step") != int(folder.name):
            raise Damaged(f"it is that of step {about.get('step')}, under another name")
        if not self._tokenizer.exists():
            raise UserError(f"{self._tokenizer} is missing: {folder} can't be read without it")
        made_with = about.get("tokenizer")
        if made_with != digest([self._tokenizer]):
            raise UserError(
                f"{self._tokenizer} is not the tokenizer that {folder} was made with: put that "
                "back; it is in the folder of the run"
            )

    def _write(self, step: int, trees: dict[str, Any], about: dict[str, Any]) -> None:
        """In the thread: one more checkpoint, and away with those that are not to be kept."""
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trees)):
            raise ValueError("it holds numbers that are not finite")
        for pattern in (".*.old", ".*.new"):  # What a kill left of a removal, or of a save.
            for path in self._path.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)
        on_disk.write(self._folder(step), trees, about)
        kept = {*self.steps()[-self._keep :], self.best_step()}
        for old in set(self.steps()) - kept:
            on_disk.remove(self._folder(old))

    def _set_aside(self, damaged: dict[int, Damaged], whole: int) -> None:
        for step in damaged:
            aside = self._path / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            self._folder(step).rename(aside)
        if damaged:
            self.note(f"{self._path}: {_list(damaged)}, set aside: going on from step {whole}")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.wait()
        self._thread.shutdown()


def _list(damaged: dict[int, Exception]) -> str:
    return "; ".join(f"checkpoint {step} is damaged ({error})" for step, error in damaged.items())


def _progress(about: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run, out of a file that anyone may have written. Raises Damaged."""
    progress = about.get("progress")
    numbers = run_folder.flatten(progress).values() if isinstance(progress, dict) else [None]
    if not all(isinstance(number, int | float) for number in numbers):
        raise Damaged(f"{on_disk.ABOUT} holds no progress of a run")
    return progress


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
    config = check.from_json(run_folder.read_json(workdir / run_folder.CONFIG), workdir)
    tokenizer = tokenizers.load(workdir / run_folder.TOKENIZER)
    model = models.build(config.model, tokenizer.vocab_size)
    tokens_11 = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_11)["params"]
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: x.update(sharding=sharding), shapes)
    with Checkpoints(workdir) as checkpoints:
        step, params = checkpoints.restore_params(which, shapes)
    # Laid out as in the run itself, whose programs then serve here, too.
    params = devices.replicate(params, devices.data_mesh(1))
    return Trained(config, tokenizer, model, params, step)
