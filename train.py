"""Trains a model and measures it: `train_and_evaluate(config, workdir)` is what main.py calls.

token ids -> batches, a pure function of (seed, step) -> train_steps -> TrainState
and when it is due: a line of metrics, an evaluation, a sample, a checkpoint
"""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

import models
import run_folder
from checkpoints import pretrained
from checkpoints.manager import Checkpoints, Restored
from inference.evaluation import evaluate
from inference.generation import generate
from input_pipeline import batches
from runtime import devices, programs, stopping
from runtime.errors import Diverged, Failed, UserError
from tracking import Tracker, open_tracker
from training import divergence, run_start
from training.setup import Parts, build_parts, check_config
from training.train_step import Update, create_state, flops_per_step, no_update, train_steps


def is_due(step: int, every: int, last: int) -> bool:
    """Whether what happens `every` so many steps (0: never but at the end) happens at `step`."""
    return step == last or (every > 0 and step % every == 0)


def next_due(step: int, last: int, *everys: int) -> int:
    """The first step after `step` at which something is due."""
    return min([last, *((step // every + 1) * every for every in everys if every)])


class Stopwatch:
    """Seconds of training alone: it stands still while anything else is done."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._started = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._started


class Run:
    """A config's parts at work in one run folder."""

    def __init__(
        self,
        config: ConfigDict,
        parts: Parts,
        workdir: Path,
        checkpoints: Checkpoints,
        tracker: Tracker,
        progress: dict,
    ):
        self.config = config
        self.parts = parts
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.tracker = tracker
        self.progress = progress
        self.stopwatch = Stopwatch(progress["seconds"])
        self.last: dict[str, float] = {}  # Each metric's newest value.
        self.tokens_per_step = config.train.batch_size * config.model.context_length
        self.flops_per_step = 0.0  # Known when `train` has seen a state.
        self.saved_at = time.monotonic()

    def train(self, state: TrainState, step: int, stop: stopping.Stop) -> None:
        """Updates `state`, which has seen `step` updates, until it has seen all of them.

        Raises Diverged, or what `stop` asks for after the state has been saved.
        """
        config = self.config
        last = config.train.num_steps
        everys = [
            config.train.log_every_steps,
            config.eval.every_steps,
            config.sample.every_steps,
            config.checkpoint.every_steps,
        ]
        # That of the dispatch before the last one, and of the last one.
        before = update = devices.replicate(no_update(self.progress["skipped"]), self.parts.mesh)
        with ThreadPoolExecutor(max_workers=2) as pool:
            # The step compiles on one core while another measures the fresh model.
            compiling = pool.submit(self.compile, state)
            counting = pool.submit(self.count_flops, state)
            if step == 0:
                self.look(state, 0, {}, stop)
            update_state = compiling.result()
            self.flops_per_step = counting.result()
        self.stopwatch.start()
        for first, batches_KBT in devices.send_ahead(self.batches(step, last), self.parts.mesh):
            end = min(first + len(batches_KBT), last)
            while step < end:
                until = next_due(step, end, *everys)
                # Two dispatches are under way at most: a request to stop waits for them.
                jax.block_until_ready(before)
                before, bounds = update, (step - first, until - first)
                state, update = update_state(state, update, batches_KBT, *bounds, *self.constants)
                step = until
                due = any(is_due(step, every, last) for every in everys)
                if due or stop.requested or self.save_is_due_by_the_clock():
                    measured = jax.device_get(update)  # Waits for the device.
                    self.stopwatch.stop()
                    self.look(state, step, measured, stop)
                    self.stopwatch.start()

    def batches(self, start_step: int, num_steps: int) -> Iterator[tuple[int, np.ndarray]]:
        """What `batches.train_batches` yields for this run, from a step on."""
        return batches.train_batches(
            self.parts.data.train,
            seed=self.config.seed,
            batch_size=self.config.train.batch_size,
            context_length=self.config.model.context_length,
            steps_per_dispatch=self.config.train.steps_per_dispatch,
            start_step=start_step,
            num_steps=num_steps,
        )

    @property
    def constants(self) -> tuple[np.uint32, int]:
        """The last arguments of each dispatch."""
        return np.uint32(self.config.seed), self.config.train.max_skipped_updates

    def compile(self, state: TrainState) -> jax.stages.Compiled:
        """`train_steps` in this run's precision; all else stays in float32."""
        train, mesh = self.config.train, self.parts.mesh
        shape = (train.steps_per_dispatch, train.batch_size, self.config.model.context_length + 1)
        batches_KBT = devices.split_batches(np.zeros(shape, np.int32), mesh)
        update = devices.replicate(no_update(), mesh)
        args = (state, update, batches_KBT, 0, 0, *self.constants)
        options = dict(num_parts=train.grad_accumulation_steps, objective=self.parts.objective)
        made_of = self.parts.made_of and f"{self.parts.made_of} {options}"
        with jax.default_matmul_precision(self.parts.precision):
            lower = partial(train_steps.lower, *args, **options)
            return programs.compiled("train_steps", made_of, args, lower, out=(state, update))

    def count_flops(self, state: TrainState) -> float:
        """Floating-point operations of an update."""
        shape = (self.config.train.batch_size, self.config.model.context_length + 1)
        made_of = self.parts.made_of and f"{self.parts.made_of} {shape}"
        count = partial(flops_per_step, state, shape)
        return programs.remembered("flops", made_of, (state.params,), count)

    def look(self, state: TrainState, step: int, update: Update, stop: stopping.Stop) -> None:
        """Does what is due after `step` updates: metrics, evaluation, sample, checkpoint.

        Raises Diverged, before anything is saved, if too many updates were not finite or the
        validation loss is not. Raises what `stop` asks for, after everything else.
        """
        config, last = self.config, self.config.train.num_steps
        leaving = stop.requested
        self.checkpoints.report()
        if update:
            self.progress["skipped"] = int(update["skipped"])
            if self.progress["skipped"] > config.train.max_skipped_updates:
                bad = int(state.step)
                self.log(bad, self.training_metrics(bad, update))
                name = "loss" if not math.isfinite(update["train/loss"]) else "grad_norm"
                before = state.replace(step=state.step - 1)
                what = f"train/{name} is {update[f'train/{name}']} at step {bad}"
                if skipped := config.train.max_skipped_updates:
                    what += f" after {skipped} that were skipped"
                self.stop_diverged(what, before)
        eval_is_due = step == 0 or is_due(step, config.eval.every_steps, last)
        sample_is_due = step == 0 or is_due(step, config.sample.every_steps, last)
        line = {}
        if update and is_due(step, config.train.log_every_steps, last):
            line |= self.training_metrics(step, update)
        # A text is written token by token, which leaves the evaluation what it needs.
        with ThreadPoolExecutor(max_workers=1) as beside:
            sample = beside.submit(self.sample, state.params) if sample_is_due else None
            if eval_is_due:
                line |= self.validation_metrics(step, state.params)
            if line:
                self.log(step, line)
        if not math.isfinite(line.get("val/loss", 0.0)):
            self.stop_diverged(f"val/loss is {line['val/loss']} at step {step}", state)
        if sample:
            self.tracker.log_sample(step, config.sample.prompt, sample.result())
        save_is_due = is_due(step, config.checkpoint.every_steps, last)
        if step and (eval_is_due or save_is_due or leaving or self.save_is_due_by_the_clock()):
            self.save(state, step, line["val/loss"] if eval_is_due else None)
        if leaving:
            self.leave(step, stop)

    def save_is_due_by_the_clock(self) -> bool:
        """Whether `checkpoint.every_minutes` have passed; the clock is one that can't be set."""
        seconds = 60 * self.config.checkpoint.every_minutes
        return 0 < seconds <= time.monotonic() - self.saved_at

    def save(self, state: TrainState, step: int, val_loss: float | None) -> None:
        """Starts saving what a run needs to go on from `step`, the record up to there first."""
        self.progress["seconds"] = self.stopwatch.seconds
        self.tracker.sync()
        self.checkpoints.save(step, state, dict(self.progress), val_loss)
        self.saved_at = time.monotonic()

    def leave(self, step: int, stop: stopping.Stop) -> None:
        """Raises what `stop` asks for; says where the run can be gone on with."""
        if not step:
            stop.raise_as("stopped before the first update: nothing was to be saved")
        if not self.checkpoints.wait():
            self.fail_without_checkpoint()
        stop.raise_as(
            f"stopped at step {step}, which is saved: go on with --config.checkpoint.resume=true"
        )

    def fail_without_checkpoint(self) -> None:
        """Raises Failed: the last checkpoint of this process could not be saved."""
        newest = self.checkpoints.latest_step()
        kept = "there is none before it" if newest is None else f"that of step {newest} is kept"
        raise Failed(
            f"{self.workdir}: the last checkpoint could not be saved, for the reason noted above, "
            f"and {kept}: mend that and go on with --config.checkpoint.resume=true"
        )

    def stop_diverged(self, what: str, state: TrainState) -> None:
        """Raises Diverged, having looked at the next update of `state`, and kept what it takes."""
        config, step = self.config, int(state.step)
        first, batches_KBT = next(iter(self.batches(step, step + 1)))
        try:
            with jax.default_matmul_precision(self.parts.precision):
                finding = divergence.examine(
                    self.parts.model,
                    state,
                    batches_KBT[step - first],
                    seed=config.seed,
                    num_parts=config.train.grad_accumulation_steps,
                    objective=self.parts.objective,
                    mesh=self.parts.mesh,
                    workdir=self.workdir,
                )
            kept = f"its batch, gradient and state are in {self.workdir / run_folder.DIVERGED}"
        # The disk may be full, and looking takes some more memory than training.
        except (OSError, jax.errors.JaxRuntimeError) as error:
            finding, kept = "where it began is not known", f"nothing of it could be kept ({error})"
        raise Diverged(
            f"{what}: training diverged; {finding}; {kept}; try a smaller "
            f"--config.optimizer.learning_rate than {config.optimizer.learning_rate}, or a higher "
            "--config.train.max_skipped_updates"
        )

    def log(self, step: int, line: dict[str, float]) -> None:
        """Adds where the run stands to a line of metrics, and keeps it."""
        line |= self.position(step)
        self.last |= line | {"step": step}
        self.tracker.log(step, line)

    def position(self, step: int) -> dict[str, float]:
        """How far the run is, in the units that runs are compared by."""
        return {
            "tokens_seen": step * self.tokens_per_step,
            "train_flops": step * self.flops_per_step,
            "seconds": self.stopwatch.seconds,
        }

    def training_metrics(self, step: int, update: Update) -> dict[str, float]:
        """The metrics of update `step`, and the speed since the last line that had them."""
        since = self.progress.get("logged", {"tokens_seen": 0, "seconds": 0.0})
        now = self.position(step)
        self.progress["logged"] = now
        skipped = int(update["skipped"])
        tokens_per_second = (now["tokens_seen"] - since["tokens_seen"]) / (
            now["seconds"] - since["seconds"]
        )
        made = {
            "train/loss": float(update["train/loss"]),
            "train/grad_norm": float(update["train/grad_norm"]),
            # The schedule counts the updates that were made.
            "train/learning_rate": self.learning_rate(max(step - 1 - skipped, 0)),
            "train/tokens_per_second": tokens_per_second,
        }
        if peak := devices.peak_flops(self.parts.mesh):
            flops_per_token = self.flops_per_step / self.tokens_per_step
            made["train/mfu"] = tokens_per_second * flops_per_token / peak
        if self.config.train.max_skipped_updates:
            made["train/skipped_updates"] = skipped
        return made

    def learning_rate(self, updates: int) -> float:
        """That of the next update after so many, by one program: its operations would be eight."""
        args = (np.int32(updates),)
        lower = partial(jax.jit(self.parts.schedule).lower, *args)
        program = programs.compiled("learning_rate", self.parts.made_of, args, lower)
        return float(program(*args))

    def validation_metrics(self, step: int, params: Any) -> dict[str, float]:
        """The scores of `params` on the whole validation split; keeps the best one in mind."""
        data = self.parts.data
        score = evaluate(
            self.parts.model,
            params,
            data.val,
            data.tokenizer.token_bytes,
            batch_size=self.config.eval.batch_size,
            context_length=self.config.model.context_length,
            mesh=self.parts.mesh,
        )
        if score["loss"] < self.progress["best/val/loss"]:
            self.progress |= {"best/val/loss": score["loss"], "best/step": step}
        return {f"val/{name}": value for name, value in score.items()}

    def sample(self, params: Any) -> str:
        """A text by `params`, drawn with the same random numbers each time."""
        config = self.config.sample
        made = generate(
            self.parts.model,
            params,
            self.parts.prompt,
            num_tokens=config.num_tokens,
            context_length=self.config.model.context_length,
            sampling=self.parts.sampling,
            seed=self.config.seed,
        )
        return self.parts.data.tokenizer.decode(np.concatenate(list(made), axis=1)[0])

    def summary(self) -> dict:
        """The last and the best of the metrics."""
        best = {key: self.progress[key] for key in ("best/val/loss", "best/step")}
        return {**self.last, **best}


def train_and_evaluate(config: ConfigDict, workdir: Path) -> None:
    """Trains what `config` describes, writing to `workdir`; goes on where a run there stopped.

    Raises UserError for a config, data set or folder that can't be used, before the folder is
    touched; Diverged if losses or gradients stop being finite; Failed if the record or the last
    checkpoint can't be written; KeyboardInterrupt, after saving, if SIGINT or SIGTERM asks for it.
    """
    started = time.perf_counter()
    config = pretrained.adopt(config, workdir)
    check_config(config)
    run_start.check_free(config, workdir)
    parts = build_parts(config)
    run_start.check_text(parts.data, workdir)
    weights = begin_with(config, parts, workdir)
    with run_start.take(workdir):
        run_start.check_free(
            config, workdir
        )  # Until it was ours, another process may have used it.
        with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
            newest = checkpoints.latest_step()
            if newest is not None and run_start.is_finished(workdir, newest, config):
                print(f"{workdir}: finished at step {newest} already")
                return
            try:
                run_in(workdir, config, parts, checkpoints, weights, started)
            except OSError as error:
                raise Failed(
                    f"{workdir} can't be written ({error}); what is saved is kept: make room and "
                    "go on with --config.checkpoint.resume=true"
                ) from error


def begin_with(config: ConfigDict, parts: Parts, workdir: Path) -> pretrained.Weights | None:
    """The weights that a run begins with, which has come to no checkpoint; None for fresh ones.

    Raises UserError if they do not fit, or are others than the run in `workdir` began with.
    """
    if not config.model.init_from or Checkpoints(workdir).steps():
        return None
    weights = pretrained.load(config, parts.model, parts.data.tokenizer)
    run_start.check_weights(weights.digest, workdir)
    return weights


def run_in(
    workdir: Path,
    config: ConfigDict,
    parts: Parts,
    checkpoints: Checkpoints,
    weights: pretrained.Weights | None,
    started: float,
) -> None:
    """Trains in a folder that is this process's own; `started` is when it began.

    Raises OSError if the folder can't be written, and else what `train_and_evaluate` does.
    """
    state = fresh_state(config, parts, weights)
    num_params, num_inside = models.count_parameters(state.params)
    restored = restore_or_begin(workdir, config, checkpoints, state)
    changes = run_start.write_start(
        config,
        workdir,
        parts.data,
        precision=parts.precision,
        mesh=parts.mesh,
        weights_digest=weights and weights.digest,
    )
    resumed_from = restored.step or None
    tracker = open_tracker(config, workdir, num_params=num_params, resumed_from=resumed_from)
    checkpoints.note = tracker.note
    if parts.precision != config.train.precision:
        tracker.note("This processor has no products of bfloat16: training in float32.")
    if changes and resumed_from:
        tracker.note(f"warning: this run was begun elsewhere, the rest may differ: {changes}")
    tracker.note(f"run folder: {workdir}")
    run = Run(config, parts, workdir, checkpoints, tracker, restored.progress)
    for line in run_folder.read_lines(workdir / run_folder.METRICS):
        run.last |= line
    status = "failed"
    with stopping.on_request(tracker.note) as stop:
        try:
            run.train(restored.state, restored.step, stop)
            if not checkpoints.wait():
                run.fail_without_checkpoint()
            status = "done"
        except Diverged:
            status = "diverged"
            raise
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            checkpoints.wait()
            seconds = time.perf_counter() - started
            about = {
                "num_params": num_params,
                "num_params_without_embeddings": num_inside,
                "wall_seconds": seconds,
                "status": status,
            }
            written = tracker.finish({**run.summary(), **about}, exit_code=int(status != "done"))
        if not written:
            raise OSError("its summary was not written")


def fresh_state(config: ConfigDict, parts: Parts, weights: pretrained.Weights | None) -> TrainState:
    """The state before the first update: with `weights`, if there are any, or drawn ones."""
    state = create_state(parts.model, parts.tx, config.seed, parts.mesh, parts.made_of)
    if not weights:
        return state
    return state.replace(params=devices.replicate(weights.params, parts.mesh))


def restore_or_begin(
    workdir: Path, config: ConfigDict, checkpoints: Checkpoints, state: TrainState
) -> Restored:
    """What the run in a folder goes on from; a fresh `state` if it has come to no checkpoint.

    Raises UserError if it can't go on with this config.
    """
    restored = checkpoints.restore(state)
    if restored is None:
        # Lines of a run that was stopped before its first checkpoint: it starts anew.
        for name in (run_folder.METRICS, run_folder.SAMPLES):
            run_folder.set_aside_after(workdir / name, -1)
        progress = {"seconds": 0.0, "best/val/loss": math.inf, "best/step": 0, "skipped": 0}
        return Restored(0, state, progress)
    skipped, allowed = restored.progress["skipped"], config.train.max_skipped_updates
    if skipped > allowed:
        raise UserError(
            f"config.train.max_skipped_updates={allowed}: expected {skipped} or more, for this "
            "run has skipped so many"
        )
    return restored
