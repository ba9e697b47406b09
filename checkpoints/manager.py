"""Checkpoints of a run: saves the train state, keeps the newest few and the best, restores.

A background thread saves. A failed save is reported and leaves no checkpoint; training goes on and
the next save is tried. Restoring skips a damaged checkpoint for the one before it, with a warning
that names both.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

import models
import run_folder
from checkpoints import file_format, parts
from checkpoints.file_format import Damaged
from config import check
from input_pipeline import tokenizers
from input_pipeline.text_files import digest
from models import padding
from runtime import cluster, devices
from runtime.errors import Failed, UserError
from tracking.sink import Model

BEST_BY = "val/loss"
# Attempts to read when a live run deletes the checkpoint being read.
MAX_ATTEMPTS = 100


class Restored(NamedTuple):
    """State to resume from; `progress` has the run's numbers outside of the train state."""

    step: int
    state: TrainState
    progress: dict[str, Any]


class Checkpoints(contextlib.AbstractContextManager):
    """Checkpoints of one run folder."""

    def __init__(
        self, workdir: Path, keep: int = 1, note: Callable[[str], None] | None = None
    ) -> None:
        """Keeps the `keep` newest; `note` takes warnings, by default to standard error."""
        self._path = workdir / run_folder.CHECKPOINTS
        self._tokenizer = workdir / run_folder.TOKENIZER
        self._keep = keep
        self.note = note or (lambda message: print(f"warning: {message}", file=sys.stderr))
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._saving: tuple[int, Future] | None = None

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, damaged or not, oldest first."""
        names = [path.name for path in self._path.iterdir()] if self._path.is_dir() else []
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def latest_step(self) -> int | None:
        """Returns the newest checkpoint's step; None if there is none."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the step of the lowest validation loss; None if no checkpoint has one."""
        scored = []
        for step in self.steps():
            with contextlib.suppress(Damaged):
                loss = file_format.read_metadata(self._folder(step)).get(BEST_BY)
                if isinstance(loss, int | float):
                    scored.append((loss, step))
        return min(scored)[1] if scored else None

    def find(self, which: str) -> list[int]:
        """Returns the steps that satisfy `which` ("best", "latest" or a step), best match first.

        Raises UserError if there is no such checkpoint.
        """
        newest_first = self.steps()[::-1]
        if not newest_first:
            raise UserError(f"{self._path} holds no checkpoint: the run has not saved one yet")
        if which == "latest":
            return newest_first
        if which == "best":
            best = self.best_step()
            return newest_first if best is None else list(dict.fromkeys([best, *newest_first]))
        if which in map(str, newest_first):
            return [int(which)]
        kept = ", ".join(map(str, reversed(newest_first)))
        raise UserError(f"checkpoint {which!r}: expected one of best, latest, {kept}")

    def to_track(self, which: str) -> Model | None:
        """Returns the "best" or the newest ("final") checkpoint; None for "none", or without one.

        The newest is the best if none has a validation loss.
        """
        latest, best = self.latest_step(), self.best_step()
        step = latest if which == "final" or best is None else best
        if which == "none" or step is None or not cluster.is_first():
            return None
        try:
            loss = file_format.read_metadata(self._folder(step)).get(BEST_BY)
        except Damaged as error:
            self.note(f"{self._path}: {_list({step: error})}: it is not tracked")
            return None
        aliases = [name for name, one in (("best", best), ("latest", latest)) if one == step]
        return Model(self._folder(step), step, loss, aliases)

    def save(self, step: int, state: TrainState, progress: dict, val_loss: float | None) -> None:
        """Copies the arrays and starts to write them in the background.

        Of several processes each writes a part.
        """
        self.wait()
        # Copies, for the next update reuses the buffers of these arrays.
        trees = parts.fetch({"params": state.params, "opt_state": state.opt_state})
        tokenizer = digest([self._tokenizer])
        metadata = {"step": step, "progress": progress, BEST_BY: val_loss, "tokenizer": tokenizer}
        self._saving = step, self._thread.submit(self._write, step, trees, metadata)

    def wait(self) -> bool:
        """Waits for the save under way; returns False, after a warning, if it failed."""
        saving, self._saving = self._saving, None
        if saving is None:
            return True
        try:
            saving[1].result()
        except (OSError, ValueError) as error:
            own = f"Process {cluster.index()}: " * (not cluster.is_first())
            self.note(
                f"{own}The checkpoint of step {saving[0]} was not saved ({error}); training goes "
                "on and tries the next one."
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

    def note_failure(self) -> None:
        """Warns of a save that has failed; does not wait for one that is under way."""
        if self._saving and self._saving[1].done():
            self.wait()

    def restore(self, state: TrainState) -> Restored | None:
        """Restores the newest undamaged state, sharded like `state`; None without checkpoints.

        `state` may have shapes and layouts in place of arrays. Renames damaged ones after it to
        `<step>.damaged`. Raises UserError if all are damaged, or if one does not fit the model.
        """
        damaged = {}
        for step in self.steps()[::-1]:
            folder, damage = self._folder(step), ""
            try:
                progress = self._read_progress(folder)
                file_format.check_files(folder, "params")
                file_format.check_files(folder, "opt_state")
            except Damaged as error:
                damage = str(error)
            if found := next(filter(None, cluster.exchange(damage)), None):
                damaged[step] = Damaged(found)
                continue
            try:
                params = file_format.load(folder, "params", state.params)
                opt_state = file_format.load(folder, "opt_state", state.opt_state)
            except Damaged as error:  # Written wrongly: as all processes see.
                damaged[step] = error
                continue
            self._set_aside(damaged, step)
            # Not an array of NumPy: programs are compiled for the weak type of a fresh counter.
            like: Any = state.step
            counter = jax.jit(partial(int, step), out_shardings=like.sharding)()
            state = state.replace(step=counter, params=params, opt_state=opt_state)
            return Restored(step, state, progress)
        if damaged:
            raise UserError(f"{self._path}: {_list(damaged)}: start a new run in another folder")
        return None

    def restore_params(self, which: str, params: Any) -> tuple[int, Any]:
        """Restores the parameters of checkpoint `which`, sharded like `params`, and its step.

        Raises UserError if there is none, if all are damaged, or if it does not fit the model.
        """
        for _ in range(MAX_ATTEMPTS):
            damaged, found = {}, None
            for step in self.find(which):
                try:
                    self._read_metadata(self._folder(step))
                    found = step, file_format.read(self._folder(step), "params", params)
                    break
                except (Damaged, FileNotFoundError) as error:
                    damaged[step] = error
            if all(self._folder(one).exists() for one in damaged):
                break
            # The run has deleted one in between: there is a newer one.
        if found is None:
            raise UserError(f"{self._path}: {_list(damaged)}: name another with --checkpoint")
        if damaged:
            self.note(f"{self._path}: {_list(damaged)}: using that of step {found[0]}")
        return found

    def _folder(self, step: int) -> Path:
        return self._path / str(step)

    def _read_metadata(self, folder: Path) -> dict[str, Any]:
        """Returns the metadata; raises Damaged for another step, UserError for another tokenizer.

        Another tokenizer of the same size would fit the model and decode to other characters.
        """
        metadata = file_format.read_metadata(folder)
        if metadata.get("step") != int(folder.name):
            raise Damaged(f"it is that of step {metadata.get('step')}, under another name")
        if not self._tokenizer.exists():
            raise UserError(f"{self._tokenizer} is missing: {folder} can't be read without it")
        if metadata.get("tokenizer") != digest([self._tokenizer]):
            raise UserError(
                f"{self._tokenizer} is not the tokenizer that {folder} was trained with: restore "
                "the original from the run folder"
            )
        return metadata

    def _write(self, step: int, trees: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Writes a checkpoint and removes those no longer kept; runs in the thread."""
        # Left by a process killed in a removal or a save.
        for pattern in (".*.old", ".*.new") if cluster.is_first() else ():
            for path in self._path.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)
        file_format.write(self._folder(step), trees, metadata, finite=True)
        if not cluster.is_first():
            return
        kept = {*self.steps()[-self._keep :], self.best_step()}
        for old in set(self.steps()) - kept:
            file_format.remove(self._folder(old))

    def _read_progress(self, folder: Path) -> dict[str, Any]:
        """Returns the run's numbers; raises Damaged for anything else than numbers."""
        progress = self._read_metadata(folder).get("progress")
        if isinstance(progress, dict):
            numbers = run_folder.flatten(progress).values()
            if all(isinstance(number, int | float) for number in numbers):
                return progress
        raise Damaged(f"{file_format.METADATA} holds no progress of a run")

    def _set_aside(self, damaged: dict[int, Damaged], whole: int) -> None:
        if not cluster.is_first():
            return
        for step in damaged:
            aside = self._path / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            self._folder(step).rename(aside)
        if damaged:
            self.note(f"{self._path}: {_list(damaged)}, set aside: resuming from step {whole}")

    def __exit__(self, *_) -> None:
        self.wait()
        self._thread.shutdown()


def _list(damaged: Mapping[int, Exception]) -> str:
    return "; ".join(f"checkpoint {step} is damaged ({error})" for step, error in damaged.items())


class Trained(NamedTuple):
    """Trained model of a run folder, with its tokenizer and config."""

    config: ConfigDict
    tokenizer: tokenizers.Tokenizer
    model: nn.Module
    params: Any
    step: int


def load(workdir: Path, which: str) -> Trained:
    """Loads a run's model; `which` as for `Checkpoints.find`. Raises UserError if there is none."""
    config = check.from_json(run_folder.read_json(workdir / run_folder.CONFIG), workdir)
    tokenizer = tokenizers.load(workdir / run_folder.TOKENIZER)
    model = models.build(config.model, tokenizer.vocab_size)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: x.update(sharding=sharding), padding.shapes_of(model))
    with Checkpoints(workdir) as checkpoints:
        step, params = checkpoints.restore_params(which, shapes)
    if config.model.pad_vocab_to:
        model, params = padding.without_padding(model), padding.cut(params, model)
    # With the run's own sharding, its compiled programs are reused.
    params = devices.replicate(params, devices.data_mesh(1))
    return Trained(config, tokenizer, model, params, step)
