"""A config's parts: what it describes, checked as a whole and built."""

from functools import partial
from typing import NamedTuple

import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

import models
from config import check
from inference.sampling import Sampling
from input_pipeline import batches, corpus, tokenizers
from runtime import devices, process, programs
from runtime.errors import UserError
from tracking.wandb_run import choose_mode
from training import optimizer
from training.train_step import Objective


class Parts(NamedTuple):
    """What a config describes, built."""

    data: corpus.Corpus
    prompt: np.ndarray
    sampling: Sampling
    model: nn.Module
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    objective: Objective
    precision: str  # As jax.default_matmul_precision takes it.
    mesh: Mesh
    made_of: str | None  # Tells its programs from those of other configs: see runtime/programs.py.


def check_config(config: ConfigDict) -> None:
    """Raises UserError that lists all that is wrong with a config, as far as it alone can tell."""
    check.refuse(check.mistaken_types(config))
    sampling = Sampling(config.sample.temperature, config.sample.top_k, config.sample.top_p)
    check.refuse(
        check.mistaken_values(config)
        + check.collect(
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
            partial(sampling.check, "config.sample."),
        )
    )


def build_parts(config: ConfigDict) -> Parts:
    """Everything that a config which is right describes. Raises UserError for its text."""
    data = corpus.load(config.data)
    batches.check_lengths(data.train, data.val, config.model.context_length)
    prompt = data.tokenizer.encode(config.sample.prompt)
    if not len(prompt):
        raise UserError("config.sample.prompt is empty: a model continues at least one token")
    model = build_model(config, data.tokenizer.vocab_size)
    tx, schedule = optimizer.build(
        config.optimizer, config.train.num_steps, models.width_multiplier(config.model)
    )
    part_size = config.train.batch_size // config.train.grad_accumulation_steps
    mesh = devices.data_mesh(part_size, config.eval.batch_size)
    sampling = Sampling(config.sample.temperature, config.sample.top_k, config.sample.top_p)
    objective = Objective(config.train.z_loss, config.train.loss_chunks)
    precision = choose_precision(config.train.precision)
    described = programs.describe(model)
    made_of = described and f"{described} {config.optimizer} {config.train.num_steps}"
    return Parts(data, prompt, sampling, model, tx, schedule, objective, precision, mesh, made_of)


def build_model(config: ConfigDict, vocab_size: int) -> nn.Module:
    """Returns the module that a config describes. Raises UserError if that can't be."""
    train = config.train
    return models.build(
        config.model, vocab_size, splits=train.loss_chunks > 1, remat=train.remat == "blocks"
    )


def choose_precision(wanted: str) -> str:
    """What `jax.default_matmul_precision` is to be: `wanted`, or float32 where bfloat16 is slow.

    Raises UserError for a word that is neither float32 nor bfloat16.
    """
    if wanted not in ("float32", "bfloat16"):
        raise UserError(f"config.train.precision={wanted!r}: expected 'float32' or 'bfloat16'")
    return wanted if process.has_fast_bfloat16() else "float32"
