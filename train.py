"""Trains a model and measures it: `train_and_evaluate(config, workdir)` is what main.py calls.

token ids -> batches, a pure function of (seed, step) -> train_steps -> TrainState
and when it is due: a line of metrics, an evaluation, a sample, a checkpoint
"""

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from ml_collections import ConfigDict

import devices
import metrics
import models
import optimizer
import runtime
from checkpoint import Checkpoints
from errors import Diverged, UserError
from evaluate import evaluate
from generate import Sampling, generate
from input_pipeline import batches, corpus
from tracking import Tracker, open_tracker, run_folder, sweep
from tracking.wandb_run import choose_mode

# What may differ between a run and its resumption; anything else would make it another run.
MAY_CHANGE = (
    "checkpoint.",
    "tracking.",
    "sample.",
    "eval.",
    "train.num_steps",
    "train.log_every_steps",
    "train.steps_per_dispatch",
    "data.path",
)


def create_state(
    model: nn.Module, tx: optax.GradientTransformation, seed: int, mesh: Mesh
) -> TrainState:
    """A TrainState with fresh parameters, on every device of `mesh`."""

    # The seed is an argument, no constant of the program: another one compiles nothing.
    def create(seed: jax.Array) -> TrainState:
        init_rng, _ = jax.random.split(jax.random.key(seed))
        params = model.init(init_rng, jnp.zeros((1, 1), jnp.int32))["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    return devices.replicate(jax.jit(create)(np.uint32(seed)), mesh)


def loss_of(
    params: Any, apply: Callable[..., jax.Array], batch_BT: jax.Array, rng: jax.Array
) -> jax.Array:
    """Mean nats per token on windows of T + 1 tokens: inputs, and shifted by one the targets."""
    logits_BTV = apply({"params": params}, batch_BT[:, :-1], train=True, rngs={"dropout": rng})
    return metrics.next_token_nats(logits_BTV, batch_BT[:, 1:]).mean()


def train_step(
    state: TrainState, batch_BT: jax.Array, seed: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update; the loss of its batch and the length of its gradient, before clipping."""
    _, dropout_rng = jax.random.split(jax.random.key(seed))
    rng = jax.random.fold_in(dropout_rng, state.step)
    loss, grads = jax.value_and_grad(loss_of)(state.params, state.apply_fn, batch_BT, rng)
    return state.apply_gradients(grads=grads), {
        "train/loss": loss,
        "train/grad_norm": optax.global_norm(grads),
    }


@partial(jax.jit, donate_argnames="state")
def train_steps(
    state: TrainState, batches_KBT: jax.Array, first: int, stop: int, seed: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates with batches first .. stop - 1 of K in one dispatch; the metrics of the last.

    The bounds are arguments, not shapes, so that one program serves every stretch between two
    things that are due.
    """

    def body(k, carry):
        state, _ = carry
        batch_BT = jax.lax.dynamic_index_in_dim(batches_KBT, k, keepdims=False)
        return train_step(state, batch_BT, seed)

    nothing = {"train/loss": jnp.float32(0), "train/grad_norm": jnp.float32(0)}
    return jax.lax.fori_loop(first, stop, body, (state, nothing))


def is_due(step: int, every: int, last: int) -> bool:
    """Whether what happens `every` so many steps (0: never but at the end) happens at `step`."""
    return step == last or (every > 0 and step % every == 0)


def next_due(step: int, last: int, *everys: int) -> int:
    """The first step after `step` at which something is due."""
    return min([last, *((step // every + 1) * every for every in everys if every)])


def flops_per_step(state: TrainState, batch_shape: tuple[int, int]) -> float:
    """Floating-point operations of one forward and backward pass, as XLA counts them."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.params)
    batch_BT = jax.ShapeDtypeStruct(batch_shape, jnp.int32)
    grad = jax.jit(jax.grad(loss_of), static_argnums=1)
    # Counted for the CPU wherever the run is: the plugins of other devices do not count.
    with jax.default_device(jax.devices("cpu")[0]):
        lowered = grad.lower(params, state.apply_fn, batch_BT, jax.random.key(0))
    return lowered.cost_analysis()["flops"]


class Stopwatch:
    """Seconds of training alone: it stands still while anything else is done."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._started = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._started


class Parts(NamedTuple):
    """What a config describes, built."""

    data: corpus.Corpus
    prompt: np.ndarray
    sampling: Sampling
    model: nn.Module
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    precision: str  # As jax.default_matmul_precision takes it.
    mesh: Mesh


def build_parts(config: ConfigDict) -> Parts:
    """Everything a run needs but its folder. Raises UserError for what a user can mend."""
    check_positive(config)
    choose_mode(config.tracking.wandb_mode)
    data = corpus.load(config.data)
    batches.check_lengths(data.train, data.val, config.model.context_length)
    prompt = data.tokenizer.encode(config.sample.prompt)
    if not len(prompt):
        raise UserError("config.sample.prompt is empty: a model continues at least one token")
    model = models.build(config.model, data.tokenizer.vocab_size)
    tx, schedule = optimizer.build(config.optimizer, config.train.num_steps)
    mesh = devices.data_mesh(config.train.batch_size, config.eval.batch_size)
    sampling = Sampling(config.sample.temperature, config.sample.top_k, config.sample.top_p)
    sampling.check("config.sample.")
    precision = choose_precision(config.train.precision)
    return Parts(data, prompt, sampling, model, tx, schedule, precision, mesh)


def choose_precision(wanted: str) -> str:
    """What `jax.default_matmul_precision` is to be: `wanted`, or float32 where bfloat16 is slow.

    Raises UserError for a word that is neither float32 nor bfloat16.
    """
    if wanted not in ("float32", "bfloat16"):
        raise UserError(f"config.train.precision={wanted!r}: expected 'float32' or 'bfloat16'")
    return wanted if runtime.has_fast_bfloat16() else "float32"


def check_positive(config: ConfigDict) -> None:
    """Raises UserError for a count that must be at least 1 and is not."""
    for section, key in (
        ("train", "batch_size"),
        ("train", "num_steps"),
        ("train", "log_every_steps"),
        ("train", "steps_per_dispatch"),
        ("eval", "batch_size"),
        ("sample", "num_tokens"),
        ("checkpoint", "keep"),
    ):
        if config[section][key] < 1:
            raise UserError(f"config.{section}.{key}={config[section][key]}: expected 1 or more")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed}: expected 0 or more, and less than 2 ** 32")
    for section in ("eval", "sample", "checkpoint"):
        if config[section].every_steps < 0:
            raise UserError(
                f"config.{section}.every_steps={config[section].every_steps}: expected 0 (not "
                "between the ends) or more"
            )


def check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError unless `workdir` is free, or holds the run that is to be resumed."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; a run needs a folder")
    if not (workdir / run_folder.CONFIG).exists():
        # A run that was killed before it wrote its config may have left an empty folder behind.
        inside = list(workdir.iterdir()) if workdir.is_dir() else []
        if any(path.name != run_folder.CHECKPOINTS or any(path.iterdir()) for path in inside):
            raise UserError(
                f"--workdir={workdir} holds files but no run: name a new or an empty folder"
            )
        return
    if not config.checkpoint.resume:
        raise UserError(
            f"--workdir={workdir} already holds a run: name another folder, or go on with that "
            "run by --config.checkpoint.resume=true"
        )
    before = run_folder.flatten(run_folder.read_json(workdir / run_folder.CONFIG))
    now = run_folder.flatten(config_as_json(config))
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if changed:
        raise UserError(
            f"--workdir={workdir} holds a run with another config ({'; '.join(changed)}): "
            "resume with its own values, or name another folder"
        )


def config_as_json(config: ConfigDict) -> dict:
    """The config as it comes back from config.json: lists for tuples."""
    return json.loads(config.to_json())


def check_text(data: corpus.Corpus, workdir: Path) -> None:
    """Raises UserError if the run in `workdir`, if there is one, was trained on another text."""
    if not (workdir / run_folder.ENVIRONMENT).exists():
        return
    before = run_folder.read_json(workdir / run_folder.ENVIRONMENT)["text_sha256"]
    if before != data.digest:
        raise UserError(
            f"{workdir} was trained on a text with sha256 {before}, and now it is {data.digest}: "
            "put that text back, or train on this one in another folder"
        )


def is_finished(workdir: Path, step: int, config: ConfigDict) -> bool:
    """Whether the run has all its steps and has said so: it may have been killed in between."""
    if step < config.train.num_steps or not (workdir / run_folder.SUMMARY).exists():
        return False
    return run_folder.read_json(workdir / run_folder.SUMMARY)["status"] == "done"


def make_workdir(workdir: Path) -> None:
    """Creates the run folder. Raises UserError if it can't be written to."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"--workdir={workdir} can't be written: {error}") from None


def write_run_files(config: ConfigDict, workdir: Path, parts: Parts) -> None:
    """config.json, environment.json, tokenizer.json, and sweep.json for the run of a sweep."""
    run_folder.write_json(workdir / run_folder.CONFIG, config_as_json(config))
    run_folder.write_json(workdir / run_folder.ENVIRONMENT, environment(parts))
    parts.data.tokenizer.save(workdir / run_folder.TOKENIZER)
    if swept := sweep.current():
        run_folder.write_json(workdir / run_folder.SWEEP, swept.as_json())


def environment(parts: Parts) -> dict:
    """What the numbers of a run depend on besides its config; never the environment variables."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None  # A copy without git or without history.

    changes = git("status", "--porcelain")
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "device": parts.mesh.devices.flat[0].device_kind,
        "platform": parts.mesh.devices.flat[0].platform,
        "num_devices": parts.mesh.size,
        "num_cpus": os.cpu_count(),
        "precision": parts.precision,
        "text_sha256": parts.data.digest,
    }


class Run:
    """A config's parts at work in one run folder."""

    def __init__(
        self,
        config: ConfigDict,
        parts: Parts,
        checkpoints: Checkpoints,
        tracker: Tracker,
        progress: dict,
    ):
        self.config = config
        self.parts = parts
        self.checkpoints = checkpoints
        self.tracker = tracker
        self.progress = progress
        self.stopwatch = Stopwatch(progress["seconds"])
        self.last: dict[str, float] = {}  # Each metric's newest value.
        self.tokens_per_step = config.train.batch_size * config.model.context_length
        self.flops_per_step = 0.0  # Known when `train` has seen a state.

    def train(self, state: TrainState, step: int) -> None:
        """Updates `state`, which has seen `step` updates, until it has seen all of them."""
        config = self.config
        last = config.train.num_steps
        batch_shape = (config.train.batch_size, config.model.context_length + 1)
        self.flops_per_step = flops_per_step(state, batch_shape)
        everys = [
            config.train.log_every_steps,
            config.eval.every_steps,
            config.sample.every_steps,
            config.checkpoint.every_steps,
        ]
        lowered = self.lower(state)
        seed = np.uint32(config.seed)
        with ThreadPoolExecutor(max_workers=1) as pool:
            # The step compiles on one core while another measures the fresh model.
            compiling = pool.submit(lowered.compile)
            if step == 0:
                self.look(state, 0, {})
            update_state = compiling.result()
        self.stopwatch.start()
        for first, batches_KBT in batches.train_batches(
            self.parts.data.train,
            seed=config.seed,
            batch_size=config.train.batch_size,
            context_length=config.model.context_length,
            steps_per_dispatch=config.train.steps_per_dispatch,
            start_step=step,
            num_steps=last,
        ):
            batches_KBT = devices.split_batches(batches_KBT, self.parts.mesh)
            end = min(first + len(batches_KBT), last)
            while step < end:
                stop = next_due(step, end, *everys)
                state, update = update_state(state, batches_KBT, step - first, stop - first, seed)
                step = stop
                if any(is_due(step, every, last) for every in everys):
                    # Waits for the device: the only place where the host does.
                    update = jax.device_get(update)
                    self.stopwatch.stop()
                    self.look(state, step, update)
                    self.stopwatch.start()

    def lower(self, state: TrainState) -> jax.stages.Lowered:
        """`train_steps` in this run's precision, to be compiled; all else stays in float32."""
        train = self.config.train
        shape = (train.steps_per_dispatch, train.batch_size, self.config.model.context_length + 1)
        batches_KBT = devices.split_batches(np.zeros(shape, np.int32), self.parts.mesh)
        with jax.default_matmul_precision(self.parts.precision):
            return train_steps.lower(state, batches_KBT, 0, 0, np.uint32(self.config.seed))

    def look(self, state: TrainState, step: int, update: dict[str, np.ndarray]) -> None:
        """Does what is due after `step` updates: metrics, evaluation, sample, checkpoint.

        Raises Diverged, before anything is saved, if a loss or the gradient is not finite.
        """
        config, last = self.config, self.config.train.num_steps
        eval_is_due = step == 0 or is_due(step, config.eval.every_steps, last)
        line = {}
        if update and is_due(step, config.train.log_every_steps, last):
            line |= self.training_metrics(step, update)
        if eval_is_due:
            line |= self.validation_metrics(step, state.params)
        if line:
            line |= self.position(step)
            self.last |= line | {"step": step}
            self.tracker.log(step, line)
        for name, value in {**update, **line}.items():
            if name.endswith(("loss", "grad_norm")) and not math.isfinite(value):
                raise Diverged(
                    f"{name} is {value} at step {step}: training diverged; try a smaller "
                    f"--config.optimizer.learning_rate than {config.optimizer.learning_rate}"
                )
        if step == 0 or is_due(step, config.sample.every_steps, last):
            self.tracker.log_sample(step, config.sample.prompt, self.sample(state.params))
        if step and (eval_is_due or is_due(step, config.checkpoint.every_steps, last)):
            self.progress["seconds"] = self.stopwatch.seconds
            self.checkpoints.save(
                step, state, dict(self.progress), line["val/loss"] if eval_is_due else None
            )

    def position(self, step: int) -> dict[str, float]:
        """How far the run is, in the units that runs are compared by."""
        return {
            "tokens_seen": step * self.tokens_per_step,
            "train_flops": step * self.flops_per_step,
            "seconds": self.stopwatch.seconds,
        }

    def training_metrics(self, step: int, update: dict[str, np.ndarray]) -> dict[str, float]:
        """The metrics of update `step`, and the speed since the last line that had them."""
        since = self.progress.get("logged", {"tokens_seen": 0, "seconds": 0.0})
        now = self.position(step)
        self.progress["logged"] = now
        return {
            **{name: float(value) for name, value in update.items()},
            "train/learning_rate": float(self.parts.schedule(step - 1)),
            "train/tokens_per_second": (now["tokens_seen"] - since["tokens_seen"])
            / (now["seconds"] - since["seconds"]),
        }

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
    touched; Diverged if the loss stops being finite.
    """
    started = time.perf_counter()
    check_workdir(config, workdir)
    parts = build_parts(config)
    check_text(parts.data, workdir)
    make_workdir(workdir)
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
        resumed_from = checkpoints.latest_step()
        if resumed_from is not None and is_finished(workdir, resumed_from, config):
            print(f"{workdir}: finished at step {resumed_from} already")
            return
        write_run_files(config, workdir, parts)
        state = create_state(parts.model, parts.tx, config.seed, parts.mesh)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        progress = {"seconds": 0.0, "best/val/loss": math.inf, "best/step": 0}
        if resumed_from is not None:
            state, progress = checkpoints.restore(resumed_from, state)
        else:
            # Lines of a run that was stopped before its first checkpoint: it starts anew.
            for name in (run_folder.METRICS, run_folder.SAMPLES):
                run_folder.set_aside_after(workdir / name, -1)
        tracker = open_tracker(config, workdir, num_params=num_params, resumed_from=resumed_from)
        if parts.precision != config.train.precision:
            tracker.note("This processor has no products of bfloat16: training in float32.")
        tracker.note(f"run folder: {workdir}")
        run = Run(config, parts, checkpoints, tracker, progress)
        for line in run_folder.read_lines(workdir / run_folder.METRICS):
            run.last |= line
        status = "failed"
        try:
            run.train(state, resumed_from or 0)
            checkpoints.wait()
            status = "done"
        except Diverged:
            status = "diverged"
            raise
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            summary = {
                **run.summary(),
                "num_params": num_params,
                "wall_seconds": time.perf_counter() - started,
                "status": status,
            }
            tracker.finish(summary, exit_code=int(status != "done"))
