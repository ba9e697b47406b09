"""Set-up: what a config describes, checked as a whole, built, and ready to be called."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from ml_collections import ConfigDict

import models
from config import check
from experiments import default
from inference.evaluation import evaluate
from inference.generation import generate
from inference.sampling import Sampling
from inference.streaming import stream_text
from input_pipeline import batches, corpus, pairs, tokenizers
from input_pipeline.pairs import Pairs
from models import sharding
from runtime import cluster, devices, peak, process, programs
from runtime.errors import UserError
from runtime.phases import phase
from tracking import choose_sinks, wandb_settings
from training import divergence, halves, norms, optimizer, schedule
from training.loss import Objective
from training.optimizer import Optimizer
from training.schedule import Schedule
from training.step import (
    Flops,
    Metrics,
    create_state,
    gradient_flops,
    initial_metrics,
    laid_out_train_steps,
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
            partial(optimizer.build, config.optimizer, models.width_multiplier(config.model)),
            partial(choose_precision, config.train.precision),
            partial(choose_sinks, config.tracking.sinks),
            partial(wandb_settings.check, config.tracking),
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
    prompt: str  # Of the samples.
    stops: list[str]  # Texts that end a sample.
    sampling: Sampling
    model: nn.Module
    tx: Optimizer
    schedule: Schedule
    objective: Objective
    precision: str  # As jax.default_matmul_precision takes it.
    mesh: Mesh
    cache_key: str | None  # Identifies the compiled programs: see runtime/programs.py.
    flops_per_step: Callable[[], Flops]
    peak_flops: float | None  # A second, of all devices; None where it is unknown.
    seed: int
    context_length: int
    learning_rate: float  # At its peak.
    train: ConfigDict
    eval: ConfigDict
    sample: ConfigDict

    def initial_state(self, params: Any = None) -> TrainState:
        """Returns the state before the first step, its parameters `params` if they are given."""
        state = create_state(self.model, self.tx, self.seed, self.mesh, self.cache_key)
        if params is None:
            return state
        layout = sharding.layout(params, self.mesh)
        return state.replace(params=jax.tree.map(devices.place, params, layout))

    def initial_metrics(self, params: Any, skipped: int = 0) -> Metrics:
        """Returns the metrics before the first step of a model with these parameters."""
        layer_norms = norms.initial(params) if self.train.log_norms_every_steps else None
        return initial_metrics(self.mesh, skipped, layer_norms)

    def train_batches(
        self, start_step: int, num_steps: int, rows: np.ndarray | slice = slice(None)
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields what `batches.train_batches` does, for steps `start_step` + 1 to `num_steps`."""
        return batches.train_batches(
            self.data.train,
            seed=self.seed,
            batch_size=self.train.batch_size,
            context_length=self.context_length,
            steps_per_dispatch=self.train.steps_per_dispatch,
            start_step=start_step,
            num_steps=num_steps,
            rows=rows,
        )

    def chunks(self, start_step: int) -> Iterator[Chunk]:
        """Yields the batches from `start_step` to the end: a pure function of (seed, step)."""
        last, batch_size = self.train.num_steps, self.train.batch_size
        rows = devices.own_rows(batch_size, self.mesh)
        drawn = self.train_batches(start_step, last, rows)
        for first, batches_KBT in devices.send_ahead(drawn, batch_size, self.mesh):
            yield Chunk(first, min(first + len(batches_KBT), last), batches_KBT)

    def compile_train_steps(
        self, args: tuple, note: Callable[[str], None] = lambda message: None
    ) -> TrainSteps:
        """Compiles `train_steps` in the run's precision; everything else computes in float32.

        `args` are its arguments or, from plan.step_shapes, their shapes and layouts. Says so by
        `note` if the program is not kept from an earlier run.
        """
        options = self.compiler_options(args)
        key = self.cache_key and f"{self.cache_key} {self.step_options()} {options}"
        if pair := self.pair(args):
            args = halves.layouts(args, pair)
        with jax.default_matmul_precision(self.precision):
            if not programs.is_kept("train_steps", key, args):
                note("compiling" + " once: the next such run starts faster" * bool(key))
            lower = partial(self.lower_train_steps, args)
            program = programs.compiled("train_steps", key, args, lower, args[:2], options)
        constants = args[5:]

        def run(
            state: TrainState, metrics: Metrics, chunk: Chunk, step: int, until: int
        ) -> tuple[TrainState, Metrics]:
            bounds = step - chunk.first, until - chunk.first
            arguments = state, metrics, chunk.batches_KBT
            if pair:
                arguments = halves.spread(*arguments, pair)
            return program(*arguments, *bounds, *constants)

        return run

    def on_mesh(self, state: TrainState) -> TrainState:
        """Returns a state that a step has left, on the run's devices: two halves hold it twice."""
        return halves.first(state, self.mesh)

    def step_arguments(self, state: Any, metrics: Any, batches_KBT: Any) -> tuple:
        """Returns the arguments of `train_steps` before its first step."""
        constants = np.uint32(self.seed), self.train.max_skipped_updates, self.schedule
        return state, metrics, batches_KBT, 0, 0, *constants

    def step_options(self) -> dict[str, Any]:
        """Returns what `train_steps` is compiled for."""
        return dict(num_parts=self.train.grad_accumulation_steps, objective=self.objective)

    def pair(self, args: tuple) -> Mesh | None:
        """Returns the two devices of a CPU that divide the step for these arguments, or None."""
        num_parts = self.train.grad_accumulation_steps
        return halves.mesh_for(args[0].params, args[2].shape, num_parts, self.mesh)

    def compiler_options(self, args: tuple) -> programs.Options:
        """Returns the options with which XLA compiles what `lower_train_steps` returns."""
        return halves.compiler_options() if self.pair(args) else None

    def lower_train_steps(self, args: tuple) -> jax.stages.Lowered:
        """Lowers `train_steps` for these arguments, or for their shapes and layouts."""
        if pair := self.pair(args):
            steps = halves.steps_on(pair, **self.step_options())
            with jax.default_matmul_precision(self.precision):
                return steps.lower(*halves.layouts(args, pair))
        steps = train_steps if self.mesh.size == 1 else laid_out_train_steps(*args[:2])
        with jax.default_matmul_precision(self.precision), sharding.over(self.mesh):
            return steps.lower(*args, **self.step_options())

    def evaluate(self, params: Any) -> dict[str, float]:
        """Returns the scores of `params` on the whole validation split."""
        with phase("evaluate"):
            scores = evaluate(
                self.model,
                params,
                self.data.val,
                self.data.tokenizer.token_bytes,
                batch_size=devices.divisible(self.eval.batch_size, self.mesh),
                context_length=self.context_length,
                mesh=self.mesh,
            )
        return {f"val/{name}": value for name, value in scores.items()}

    def gather(self, params: Any) -> Any:
        """Returns whole parameters on one device, which generation reads a token at a time."""
        return devices.gather(params, self.mesh)

    def write_sample(self, params: Any) -> str:
        """Returns a text generated by `params`, of `gather`, with the same random numbers each
        time. Of several processes, process 0 alone writes it.
        """
        if not cluster.is_first():
            return ""
        made = generate(
            self.model,
            params,
            self.data.tokenizer.encode(self.prompt),
            num_tokens=self.sample.num_tokens,
            context_length=self.context_length,
            sampling=self.sampling,
            seed=self.seed,
        )
        tokenizer = self.data.tokenizer
        if self.stops:
            return "".join(stream_text(tokenizer, (chunk[0] for chunk in made), self.stops))
        return tokenizer.decode(np.concatenate(list(made), axis=1)[0])

    def examine(self, state: TrainState, workdir: Path) -> str:
        """Returns in words where the step after `state` is not finite; keeps it in `workdir`."""
        if cluster.count() > 1:
            return "resume it in one process, which finds the layer where it began"
        made = int(state.step)
        first, batches_KBT = next(iter(self.train_batches(made, made + 1)))
        with jax.default_matmul_precision(self.precision), sharding.over(self.mesh):
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


def set_up(
    config: ConfigDict,
    data: corpus.Corpus | None = None,
    found: Sequence[jax.Device] | None = None,
) -> Setup:
    """Builds what a config describes, which `check_config` has passed; `data` may be loaded before.

    The mesh is made of the devices `found`, by default all that there are. Raises UserError for a
    text that can't be used, and for a mesh or a batch that does not fit the devices.
    """
    data = data or corpus.load(config.data)
    train, val = batches.fitting(data.train, data.val, config.model.context_length)
    data = data._replace(train=train, val=batches.beginning(val, config.eval.max_tokens))
    prompt = config.sample.prompt
    if prompt == default.get_config().sample.prompt:
        prompt = (
            data.tokenizer.decode(val.first_prompt())
            if isinstance(val, Pairs)
            else tokenizers.suited(prompt, data.tokenizer)
        )
    tokenizers.encode_prompt(prompt, data.tokenizer, "--config.sample.prompt")
    model = build_model(config, data.tokenizer.vocab_size)
    tx = optimizer.build(config.optimizer, models.width_multiplier(config.model))
    mesh = devices.mesh_of(config.mesh, found or devices.found())
    check_batch(config.train, mesh)
    precision = choose_precision(config.train.precision)
    described = programs.describe(model) if cluster.count() == 1 else None
    return Setup(
        data=data,
        prompt=prompt,
        sampling=Sampling(config.sample.temperature, config.sample.top_k, config.sample.top_p),
        model=model,
        tx=tx,
        schedule=schedule.build(config.optimizer, config.train.num_steps),
        objective=Objective(
            config.train.z_loss, config.train.loss_chunks, is_marked=batches.has_marks(train)
        ),
        stops=stops_of(data, config.data.document_separator),
        precision=precision,
        mesh=mesh,
        cache_key=described and f"{described} {tx}" + f" {dict(mesh.shape)}" * (mesh.size > 1),
        flops_per_step=partial(count_flops, model, tx, config),
        peak_flops=peak_flops(mesh, precision, config.train.measure_peak),
        seed=config.seed,
        context_length=config.model.context_length,
        learning_rate=config.optimizer.learning_rate,
        train=config.train,
        eval=config.eval,
        sample=config.sample,
    )


def check_batch(train: ConfigDict, mesh: Mesh) -> None:
    """Raises UserError if the devices of `mesh` can't have equal parts of a batch."""
    ways, parts = devices.batch_ways(mesh), train.grad_accumulation_steps
    if train.batch_size % (ways * parts) == 0:
        return
    in_parts = f" in {parts} parts (--config.train.grad_accumulation_steps)" * (parts > 1)
    above = -(-train.batch_size // (ways * parts)) * ways * parts
    fewer = max(n for n in range(1, ways) if train.batch_size // parts % n == 0)
    raise UserError(
        f"--config.train.batch_size={train.batch_size}{in_parts} can't be divided among {ways} "
        f"devices (mesh.data x mesh.fsdp): expected a multiple of {ways * parts}, {above} for "
        f"example, or {fewer} devices, by --config.mesh.data={fewer} --config.mesh.fsdp=1"
    )


def stops_of(data: corpus.Corpus, separator: str) -> list[str]:
    """Returns the text that ends an answer, in a list; none for another text."""
    if not isinstance(data.val, Pairs):
        return []
    ending = data.tokenizer.decode(pairs.end(data.tokenizer, separator))
    return [ending] * bool(ending)


def with_num_steps(config: ConfigDict, vocab_size: int) -> ConfigDict:
    """Returns `config` with the updates that its `train.flops` allows; itself if that is 0.

    Raises UserError for less than one update.
    """
    train = config.train
    if not train.flops:
        return config
    model = build_model(config, vocab_size)
    tx = optimizer.build(config.optimizer, models.width_multiplier(config.model))
    of_step = count_flops(model, tx, config).total
    if train.flops < of_step:
        raise UserError(
            f"--config.train.flops={train.flops:g} is less than one update, which takes "
            f"{of_step:.3g}: raise it, or choose a smaller model or batch"
        )
    config = config.copy_and_resolve_references()
    config.train.num_steps = min(int(train.flops // of_step), check.STEPS)
    return config.lock()


def count_flops(model: nn.Module, tx: Optimizer, config: ConfigDict) -> Flops:
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


def peak_flops(mesh: Mesh, precision: str, may_measure: bool) -> float | None:
    """Returns the published peak of the devices, else the measured one if that is asked for."""
    published = peak.published(mesh)
    return peak.measured(mesh, precision) if may_measure and published is None else published


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
