"""Set-up: what a config describes, checked as a whole, built, and ready to be called."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from ml_collections import ConfigDict

import models
from config import check
from inference.evaluation import evaluate
from inference.generation import generate
from inference.sampling import Sampling
from input_pipeline import batches, corpus, tokenizers
from runtime import devices, process, programs
from runtime.errors import UserError
from runtime.phases import phase
from tracking.wandb_run import choose_mode
from training import divergence, optimizer
from training.loss import Objective
from training.step import (
    Flops,
    Metrics,
    create_state,
    gradient_flops,
    initial_metrics,
    train_steps,
    update_flops,
)


def check_config(config: ConfigDict) -> None:
    """Raises UserError that lists every mistake in a config that it alone can tell."""
    check.raise_errors(check.find_type_errors(config))
    sampling = Sampling(config.sample.temperature, config.sample.top_k, config.sample.top_p)
    check.raise_errors(
        check.find_value_errors(config)
        + check.collect_errors(
            partial(tokenizers.check_name, config.data.tokenizer),
            partial(build_model, config, vocab_size=1),
            partial(
                optimizer.build,
                config.optimizer,
                max(config.train.num_steps, 1),
                models.width_multiplier(config.model),
            ),
            partial(choose_precision, config.train.precision),
            partial(choose_mode, config.tracking.wandb_mode),
            partial(sampling.check, "--config.sample."),
        )
    )


class Chunk(NamedTuple):
    """Batches for one dispatch, on the devices."""

    first: int  # The batch of step `first` + 1 is the first one.
    end: int  # Steps that have been made when the chunk is used up.
    batches_KBT: jax.Array


# (state, metrics of the step before, chunk, step, until) -> (state after step `until`, its metrics)
TrainSteps = Callable[[TrainState, Metrics, Chunk, int, int], tuple[TrainState, Metrics]]


class Setup(NamedTuple):
    """Everything that a config describes, built."""

    data: corpus.Corpus
    prompt: np.ndarray
    sampling: Sampling
    model: nn.Module
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    objective: Objective
    precision: str  # As jax.default_matmul_precision takes it.
    mesh: Mesh
    cache_key: str | None  # Identifies the compiled programs: see runtime/programs.py.
    flops_per_step: Callable[[], Flops]
    seed: int
    context_length: int
    learning_rate: float  # At its peak.
    train: ConfigDict
    eval: ConfigDict
    sample: ConfigDict

    def initial_state(self, params: Any = None) -> TrainState:
        """Returns the state before the first step, its parameters `params` if they are given."""
        state = create_state(self.model, self.tx, self.seed, self.mesh, self.cache_key)
        return state.replace(params=devices.replicate(params, self.mesh)) if params else state

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields what `batches.train_batches` does, for steps `start_step` + 1 to `num_steps`."""
        return batches.train_batches(
            self.data.train,
            seed=self.seed,
            batch_size=self.train.batch_size,
            context_length=self.context_length,
            steps_per_dispatch=self.train.steps_per_dispatch,
            start_step=start_step,
            num_steps=num_steps,
        )

    def chunks(self, start_step: int) -> Iterator[Chunk]:
        """Yields the batches from `start_step` to the end: a pure function of (seed, step)."""
        last = self.train.num_steps
        drawn = self.train_batches(start_step, last)
        for first, batches_KBT in devices.send_ahead(drawn, self.mesh):
            yield Chunk(first, min(first + len(batches_KBT), last), batches_KBT)

    def compile_train_steps(self, state: TrainState) -> TrainSteps:
        """Compiles `train_steps` in the run's precision; everything else computes in float32."""
        shape = self.train.steps_per_dispatch, self.train.batch_size, self.context_length + 1
        batches_KBT = devices.split_batches(np.zeros(shape, np.int32), self.mesh)
        constants = np.uint32(self.seed), self.train.max_skipped_updates
        args = (state, initial_metrics(self.mesh), batches_KBT, 0, 0, *constants)
        options = dict(
            schedule=self.schedule,
            num_parts=self.train.grad_accumulation_steps,
            objective=self.objective,
        )
        key = self.cache_key and f"{self.cache_key} {options}"
        with jax.default_matmul_precision(self.precision):
            lower = partial(train_steps.lower, *args, **options)
            program = programs.compiled("train_steps", key, args, lower, out=args[:2])

        def run(
            state: TrainState, metrics: Metrics, chunk: Chunk, step: int, until: int
        ) -> tuple[TrainState, Metrics]:
            bounds = step - chunk.first, until - chunk.first
            return program(state, metrics, chunk.batches_KBT, *bounds, *constants)

        return run

    def evaluate(self, params: Any) -> dict[str, float]:
        """Returns the scores of `params` on the whole validation split."""
        with phase("evaluate"):
            scores = evaluate(
                self.model,
                params,
                self.data.val,
                self.data.tokenizer.token_bytes,
                batch_size=self.eval.batch_size,
                context_length=self.context_length,
                mesh=self.mesh,
            )
        return {f"val/{name}": value for name, value in scores.items()}

    def write_sample(self, params: Any) -> str:
        """Returns a text generated by `params`, with the same random numbers each time."""
        made = generate(
            self.model,
            params,
            self.prompt,
            num_tokens=self.sample.num_tokens,
            context_length=self.context_length,
            sampling=self.sampling,
            seed=self.seed,
        )
        return self.data.tokenizer.decode(np.concatenate(list(made), axis=1)[0])

    def examine(self, state: TrainState, workdir: Path) -> str:
        """Returns in words where the step after `state` is not finite; keeps it in `workdir`."""
        made = int(state.step)
        first, batches_KBT = next(iter(self.train_batches(made, made + 1)))
        with jax.default_matmul_precision(self.precision):
            return divergence.account_of(
                self.model,
                state,
                batches_KBT[made - first],
                seed=self.seed,
                num_parts=self.train.grad_accumulation_steps,
                objective=self.objective,
                mesh=self.mesh,
                workdir=workdir,
            )


def set_up(config: ConfigDict) -> Setup:
    """Builds what a config describes, which `check_config` has passed.

    Raises UserError for a text that can't be used.
    """
    data = corpus.load(config.data)
    batches.check_lengths(data.train, data.val, config.model.context_length)
    prompt = data.tokenizer.encode(config.sample.prompt)
    if not len(prompt):
        raise UserError("--config.sample.prompt is empty: a model continues at least one token")
    model = build_model(config, data.tokenizer.vocab_size)
    tx, schedule = optimizer.build(
        config.optimizer, config.train.num_steps, models.width_multiplier(config.model)
    )
    part_size = config.train.batch_size // config.train.grad_accumulation_steps
    described = programs.describe(model)
    return Setup(
        data=data,
        prompt=prompt,
        sampling=Sampling(config.sample.temperature, config.sample.top_k, config.sample.top_p),
        model=model,
        tx=tx,
        schedule=schedule,
        objective=Objective(config.train.z_loss, config.train.loss_chunks),
        precision=choose_precision(config.train.precision),
        mesh=devices.data_mesh(part_size, config.eval.batch_size),
        cache_key=described and f"{described} {config.optimizer} {config.train.num_steps}",
        flops_per_step=partial(count_flops, model, tx, config),
        seed=config.seed,
        context_length=config.model.context_length,
        learning_rate=config.optimizer.learning_rate,
        train=config.train,
        eval=config.eval,
        sample=config.sample,
    )


def with_num_steps(config: ConfigDict) -> ConfigDict:
    """Returns `config` with the updates that its `train.flops` allows; itself if that is 0.

    Raises UserError for less than one update, and for a text that can't be used.
    """
    train = config.train
    if not train.flops:
        return config
    model = build_model(config, corpus.load(config.data).tokenizer.vocab_size)
    tx, _ = optimizer.build(config.optimizer, 1, models.width_multiplier(config.model))
    of_step = count_flops(model, tx, config).total
    if train.flops < of_step:
        raise UserError(
            f"--config.train.flops={train.flops:g} is less than one update, which takes "
            f"{of_step:.3g}: raise it, or choose a smaller model or batch"
        )
    config = config.copy_and_resolve_references()
    config.train.num_steps = min(int(train.flops // of_step), check.STEPS)
    return config.lock()


def count_flops(model: nn.Module, tx: optax.GradientTransformation, config: ConfigDict) -> Flops:
    """Returns the floating-point operations of a step, counted once and kept."""
    shape = config.train.batch_size, config.model.context_length + 1
    rule = config.optimizer.name, config.optimizer.grad_clip_norm > 0
    described = programs.describe(model)

    def count(name: str, of: object, counted: Callable[[], float]) -> float:
        return programs.cached(name, described and f"{described} {of}", (), counted)

    return Flops(
        gradient=count("gradient_flops", shape, partial(gradient_flops, model, shape)),
        update=count("update_flops", rule, partial(update_flops, model, tx)),
    )


def build_model(config: ConfigDict, vocab_size: int) -> nn.Module:
    """Returns the module that a config describes. Raises UserError if that can't be."""
    train = config.train
    return models.build(
        config.model, vocab_size, splits=train.loss_chunks > 1, remat=train.remat == "blocks"
    )


def choose_precision(wanted: str) -> str:
    """Returns the precision of a run's products: `wanted`, or float32 where bfloat16 is slow.

    Raises UserError for a word that is neither float32 nor bfloat16.
    """
    if wanted not in ("float32", "bfloat16"):
        raise UserError(f"--config.train.precision={wanted!r}: expected 'float32' or 'bfloat16'")
    return wanted if process.has_fast_bfloat16() else "float32"
