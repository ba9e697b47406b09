"""Trains a model and measures it: main.py calls `train_and_evaluate(config, workdir)`.

A run is set up from its config, gets its folder, restores its state, and trains in a loop. After
the steps that ask for it, it logs, evaluates, samples and saves.
"""

import math
import time
from collections.abc import Callable, Container
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

import models
import run_folder
from checkpoints import pretrained, snapshots
from checkpoints.manager import Checkpoints, Restored
from checkpoints.snapshots import Snapshots
from input_pipeline import corpus
from runtime import cluster, devices, signals
from runtime.errors import Diverged, Failed
from runtime.phases import phase
from tracking import Tracker, open_tracker, silent_tracker, wandb_settings
from training import divergence, memory, norms, plan, run_start
from training.agreement import Agreement
from training.due import Due, milestones
from training.early_stopping import EarlyStopping
from training.progress import Progress, fresh
from training.setup import Setup, check_config, set_up, with_num_steps
from training.step import Metrics


@dataclass
class Run:
    """The training of one run: the loop, and its work at the steps that ask for it."""

    setup: Setup
    due: Due
    progress: Progress
    early_stopping: EarlyStopping
    checkpoints: Checkpoints
    snapshots: Snapshots
    tracker: Tracker
    workdir: Path
    log_model: str  # The checkpoint to track: tracking.log_model.
    newest: dict[str, float]  # Each metric's newest value.
    initial_params: Any = None  # Until they are evaluated, after the first update.

    def train(self, begun: Future[Restored], stop: signals.Stop) -> int:
        """Trains from the state that `begun` gives to the end, and returns the last step made.

        Raises Diverged, or what `stop` asks for after the state has been saved.
        """
        setup, due, progress = self.setup, self.due, self.progress
        agreement = Agreement(setup.mesh, stop, due)
        # The step compiles while the fresh model is created.
        with phase("compile"), ThreadPoolExecutor(max_workers=1) as pool:
            shapes = plan.step_shapes(setup)
            compiling = pool.submit(setup.compile_train_steps, shapes, self.tracker.note)
            step, state, _ = begun.result()
            metrics = before = setup.initial_metrics(state.params, progress.skipped)
            if step == 0:
                self.set_aside(state, metrics)
            train_steps = compiling.result()
        if step == 0 and stop.requested:
            self.leave(step, stop)
        progress.start_clock()
        for chunk in setup.chunks(step):
            while step < chunk.end:
                if self.early_stopping.reason:
                    return step
                until = due.next(step, chunk.end)
                # At most two dispatches are in flight, for a request to stop waits for them: the
                # one before the last has to end before the next begins.
                jax.block_until_ready(before)
                agreement.hear(before)
                before = metrics
                state, metrics = train_steps(state, agreement.ask(metrics), chunk, step, until)
                step = until
                if due.at(step) or stop.requested:
                    measured = metrics.fetch()  # Waits for the device.
                    progress.stop_clock()
                    self.on_due(setup.on_mesh(state), step, measured, stop)
                    progress.start_clock()
        return step

    def set_aside(self, state: TrainState, metrics: Metrics) -> None:
        """Keeps the fresh model until the first update is made, or reports it now.

        What evaluates and writes text compiles for longer than that update. A GPU evaluates in a
        moment, and may have no room for a copy.
        """
        is_cpu = self.setup.mesh.devices.flat[0].platform == "cpu"
        if is_cpu and cluster.count() == 1:
            # A copy, for the update reuses the buffers of these arrays.
            self.initial_params = jax.tree.map(
                lambda leaf: devices.place(np.array(leaf), leaf.sharding), state.params
            )
        else:
            self.report_fresh(state.params, metrics)

    def report_fresh(self, params: Any, metrics: Metrics) -> None:
        """Reports the model before the first update. Raises Diverged as `check_scores` does."""
        self.initial_params = None
        scores = self.report(params, 0, metrics)
        self.check_scores(scores, partial(self.setup.initial_state, params))

    def on_due(self, state: TrainState, step: int, metrics: Metrics, stop: signals.Stop) -> None:
        """Logs, evaluates, samples and saves at the steps that ask for it; stops if asked to.

        Raises Diverged, before anything is saved, if more steps were skipped than allowed or the
        validation loss is not finite. Raises what `stop` asks for after everything else.
        """
        if self.initial_params is not None:
            self.tracker.note("first update made; evaluating the fresh model")
            self.report_fresh(self.initial_params, metrics)
        leaving = stop.requested
        self.checkpoints.note_failure()
        self.check_steps(state, metrics)
        scores = self.report(state.params, step, metrics)
        self.check_scores(scores, lambda: state)
        if self.due.snapshot(step):
            self.snapshots.save(step, state.params, self.tracker.note)
        if self.due.save(step) or leaving:
            self.save(state, step, scores.get("val/loss"))
        if leaving:
            self.leave(step, stop)

    def report(self, params: Any, step: int, metrics: Metrics) -> dict[str, float]:
        """Measures, logs and samples what is due after `step`; returns the validation scores."""
        scores, sample = self.measure(params, step)
        line = self.step_metrics(step, metrics) if self.due.log(step) else {}
        if self.due.norms(step):
            line |= norms.named(metrics.norms, params)
        if line := line | scores:
            self.log(step, line)
        if sample is not None:
            self.tracker.log_sample(step, self.setup.prompt, sample)
        return scores

    def check_steps(self, state: TrainState, metrics: Metrics) -> None:
        """Counts the skipped steps. Raises Diverged, after logging, if they are too many."""
        self.progress.skipped = int(metrics.skipped)
        step = int(state.step)  # A dispatch ends at the first skipped step too many.
        if mistake := divergence.mistake_in(metrics, step, self.setup.train.max_skipped_updates):
            self.log(step, self.step_metrics(step, metrics))
            self.stop_diverged(mistake, state.replace(step=state.step - 1))  # Before that step.

    def check_scores(self, scores: dict[str, float], scored: Callable[[], TrainState]) -> None:
        """Raises Diverged if the validation loss of the state that `scored` gives is not finite."""
        if not math.isfinite(val_loss := scores.get("val/loss", 0.0)):
            state = scored()
            self.stop_diverged(f"val/loss is {val_loss} at step {int(state.step)}", state)

    def stop_diverged(self, mistake: str, state: TrainState) -> NoReturn:
        """Raises Diverged with what was found in the step after `state`."""
        account = self.setup.examine(state, self.workdir)
        raise divergence.diverged(mistake, account, self.setup.learning_rate)

    def measure(self, params: Any, step: int) -> tuple[dict[str, float], str | None]:
        """Returns the validation scores and a sample, as far as they are due after `step`."""
        # The sample is written token by token, which leaves the evaluation the core it needs.
        with ThreadPoolExecutor(max_workers=1) as pool:
            is_due = self.due.sample(step)
            # Gathered first: processes communicate in one order.
            own = self.setup.gather(params) if is_due else None
            writing = pool.submit(self.setup.write_sample, own) if is_due else None
            scores = self.setup.evaluate(params) if self.due.evaluate(step) else {}
            sample = writing.result() if writing else None
        if scores:
            self.progress.note_score(step, scores["val/loss"])
            self.early_stopping.note(step, scores["val/loss"])
            if self.early_stopping.reason:
                self.due.end_at(step)
                if self.due.sample(step) and sample is None:
                    sample = self.setup.write_sample(self.setup.gather(params))
        return scores, sample

    def step_metrics(self, step: int, metrics: Metrics) -> dict[str, float]:
        """Returns the training metrics of `step`, and the speed since the last ones."""
        named = {
            "train/loss": float(metrics.loss),
            "train/grad_norm": float(metrics.grad_norm),
            "train/learning_rate": float(metrics.learning_rate),
            **self.progress.speed_since_last(step),
        }
        if self.setup.train.max_skipped_updates:
            named["train/skipped_updates"] = int(metrics.skipped)
        return named

    def log(self, step: int, line: dict[str, float]) -> None:
        """Logs a line of metrics with the run's position."""
        with phase("log"):
            line |= self.progress.position(step)
            self.newest |= line | {"step": step}
            self.tracker.log(step, line)

    def save(self, state: TrainState, step: int, val_loss: float | None) -> None:
        """Starts saving a checkpoint; the record up to `step` is on the disk before it."""
        with phase("save"):
            self.tracker.sync()
            self.checkpoints.save(step, state, self.progress.as_saved(), val_loss)
            self.due.saved()

    def leave(self, step: int, stop: signals.Stop) -> NoReturn:
        """Raises what `stop` asks for; the message says how to resume."""
        if not step:
            stop.raise_as("stopped before the first step: there was nothing to save")
        self.checkpoints.require_saved()
        stop.raise_as(
            f"stopped at step {step}, which is saved: resume with --config.checkpoint.resume=true"
        )

    def run_to_end(self, begun: Future[Restored], started: float) -> None:
        """Trains what `begun` gives, then writes the summary, whatever ended the training.

        Raises what `train` does, Failed if the last checkpoint was not saved, and OSError if the
        summary was not.
        """
        shapes = plan.state_shapes(self.setup)
        total, without_embeddings = models.count_parameters(dict(shapes.params))
        num_params = {"num_params": total, "num_params_without_embeddings": without_embeddings}
        status, ending = "failed", {}
        with signals.on_request(self.tracker.note) as stop:
            try:
                with phase("train"):
                    step = self.train(begun, stop)
                self.checkpoints.require_saved()
                status = "done"
                if step < self.setup.train.num_steps:
                    ending = {"stop_reason": self.early_stopping.reason}
                    self.tracker.note(f"stopped early at step {step}: {ending['stop_reason']}")
            except Diverged as error:
                status = "diverged"
                self.tracker.alert("training diverged", str(error))
                raise
            except KeyboardInterrupt:
                status = "interrupted"
                raise
            except (ValueError, jax.errors.JaxRuntimeError) as error:
                cluster.end_if_lost(error)
                raise
            finally:
                cluster.end_watch()
                self.checkpoints.wait()
                seconds = time.perf_counter() - started
                measured = {**self.newest, **self.progress.best}
                summary = {**measured, **num_params, "wall_seconds": seconds, "status": status}
                summary |= ending
                model = self.checkpoints.to_track(self.log_model)
                written = self.tracker.finish(summary, int(status != "done"), model)
            if not written:
                raise OSError("its summary was not written")


def train_and_evaluate(config: ConfigDict, workdir: Path, chosen: Container[str] = ()) -> None:
    """Trains what `config` describes, writing to `workdir`; resumes the run that stopped there.

    `chosen` are the config keys that flags have set: they come before variables of W&B.

    Raises UserError for a config, data set or folder that can't be used, or a model that does not
    fit into memory, before the folder is touched; Diverged if losses or gradients are not finite;
    Failed if the record or the last checkpoint can't be written; KeyboardInterrupt, after saving,
    on SIGINT or SIGTERM.
    """
    started = time.perf_counter()
    config = cluster.everywhere(partial(complete, config, workdir, chosen))
    cluster.first(partial(run_start.check_folder, config, workdir))
    config, setup, num_params, weights = cluster.everywhere(partial(prepare, config, workdir))
    with ExitStack() as stack:
        cluster.first(lambda: stack.enter_context(run_start.locked(config, workdir)))
        checkpoints = stack.enter_context(Checkpoints(workdir, config.checkpoint.keep))
        step = checkpoints.latest_step()
        if finished := run_start.describe_finished(workdir, step, config):
            if cluster.is_first():
                print(f"{workdir}: {finished}")
            return
        try:
            run_in(config, workdir, setup, checkpoints, weights, num_params, started)
        except OSError as error:
            raise Failed(
                f"{workdir} can't be written ({error}); what is saved is kept: make room and "
                "resume with --config.checkpoint.resume=true"
            ) from error


def complete(config: ConfigDict, workdir: Path, chosen: Container[str]) -> ConfigDict:
    """Returns `config` with what variables and pretrained weights set, checked as a whole."""
    config = wandb_settings.with_environment(config, chosen)
    config = pretrained.with_pretrained_shape(config, workdir)
    check_config(config)
    return config


def prepare(
    config: ConfigDict, workdir: Path
) -> tuple[ConfigDict, Setup, int, pretrained.Weights | None]:
    """Returns the config with its number of steps, what it describes, the number of parameters,
    and the pretrained weights to begin with. Nothing is written but the cache of tokens.
    """
    data = corpus.load(run_start.data_config(config, workdir))
    config = with_num_steps(config, data.tokenizer.vocab_size)
    setup = set_up(config, data)
    run_start.check_text(setup.data, workdir)
    run_start.check_steps(config.train, workdir)
    num_params = memory.check(setup, config.optimizer.name).num_params
    weights = run_start.first_weights(
        config.model.init_from, setup.model, setup.data.tokenizer, workdir
    )
    return config, setup, num_params, weights


def run_in(
    config: ConfigDict,
    workdir: Path,
    setup: Setup,
    checkpoints: Checkpoints,
    weights: pretrained.Weights | None,
    num_params: int,
    started: float,
) -> None:
    """Trains in a locked run folder; `started` is when this process began.

    Raises OSError if the folder can't be written, and else what `train_and_evaluate` does.
    """
    max_skipped = config.train.max_skipped_updates
    restored = run_start.restore(checkpoints, plan.state_shapes(setup), max_skipped)
    saved = restored.progress if restored else fresh()
    kept = Snapshots(workdir)
    kept.remove_after(restored.step if restored else 0)

    def begin() -> Restored:
        if restored:
            return restored
        return Restored(0, setup.initial_state(weights and weights.params), saved)

    # A fresh model is created beside the run's first lines and the step's compilation.
    with ThreadPoolExecutor(max_workers=1) as pool:
        begun = pool.submit(begin)
        digest = weights and weights.digest
        tracker = open_folder(config, workdir, setup, num_params, digest, restored)
        if cluster.is_first():
            checkpoints.note = tracker.note  # Until here, and of other processes, standard error.
        tokens_per_step = config.train.batch_size * config.model.context_length
        run = Run(
            setup,
            due_of(config),
            Progress(saved, tokens_per_step, setup.flops_per_step, setup.peak_flops),
            EarlyStopping(config.eval, run_folder.read_lines(workdir / run_folder.METRICS)),
            checkpoints,
            kept,
            tracker,
            workdir,
            config.tracking.log_model,
            run_start.newest_metrics(workdir),
        )
        run.run_to_end(begun, started)


def open_folder(
    config: ConfigDict,
    workdir: Path,
    setup: Setup,
    num_params: int,
    weights_digest: str | None,
    restored: Restored | None,
) -> Tracker:
    """Writes the folder's files and prints the run's first lines; returns its tracker.

    Of several processes, process 0 alone writes and prints.
    """
    if not cluster.is_first():
        return silent_tracker()
    notes = run_start.write_start(
        config,
        workdir,
        setup.data,
        prompt=setup.prompt,
        num_params=num_params,
        precision=setup.precision,
        mesh=setup.mesh,
        weights_digest=weights_digest,
        resumed=restored is not None,
    )
    resumed_from = restored and restored.step
    tracker = open_tracker(config, workdir, num_params=num_params, resumed_from=resumed_from)
    for note in notes:
        tracker.note(note)
    return tracker


def due_of(config: ConfigDict) -> Due:
    """Returns what a config asks for at which steps."""
    num_steps = config.train.num_steps
    return Due(
        num_steps,
        log=config.train.log_every_steps,
        norms=config.train.log_norms_every_steps,
        evaluate=config.eval.every_steps,
        sample=config.sample.every_steps if config.sample.num_tokens else None,
        save=config.checkpoint.every_steps,
        save_minutes=config.checkpoint.every_minutes,
        has_clock=cluster.count() == 1,
        evaluate_at=milestones(num_steps) if config.eval.milestones else (),
        sample_at=milestones(num_steps) if config.sample.milestones else (),
        snapshot_at=snapshots.steps_of(num_steps, config.checkpoint.snapshots),
    )
