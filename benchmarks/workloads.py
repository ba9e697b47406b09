"""Workloads to measure, by name: an experiment with changes, and the kind of work."""

import importlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from benchmarks import rounds
from experiments import default
from input_pipeline import batches, corpus
from runtime import errors

PROMPT_LENGTH = 8


class Workload(NamedTuple):
    """Experiment, changes to its config, and the kind of work: see rounds.Job."""

    kind: str
    experiment: str  # With a preset after a colon.
    changes: dict[str, int | float]
    texts: int = 1  # Generated side by side.
    heavy: bool = False  # A pass takes seconds.


# An update takes seconds, so a pass has one.
BABY = {"train.steps_per_dispatch": 1}
BABY_8 = {"train.batch_size": 8, **BABY}
SMALL = {"model.context_length": 256, "train.batch_size": 2}
NO_DROPOUT = {"model.dropout_rate": 0.0}
# Room for the prompt and 500 tokens.
BABY_TEXT = {"model.context_length": 512}
SMALL_TEXT = {"model.context_length": 1024}

WORKLOADS = {
    "bigram": Workload("training", "bigram", {"train.batch_size": 32, "model.context_length": 8}),
    "self_attention": Workload("training", "self_attention", {}),
    "multi_head_attention": Workload("training", "multi_head_attention", {}),
    "transformer_decoder": Workload("training", "transformer_decoder", {}),
    "laptop": Workload("training", "gpt2:laptop", {}),
    "baby": Workload("training", "gpt2:baby", BABY, heavy=True),
    "baby-no-dropout": Workload("training", "gpt2:baby", {**BABY, **NO_DROPOUT}, heavy=True),
    "baby-8": Workload("training", "gpt2:baby", BABY_8, heavy=True),
    "baby-8-no-dropout": Workload("training", "gpt2:baby", {**BABY_8, **NO_DROPOUT}, heavy=True),
    "small": Workload("training", "gpt2:small", SMALL, heavy=True),
    "evaluation": Workload("evaluation", "gpt2:laptop", {}),
    "generation-baby-1": Workload("generation", "gpt2:baby", BABY_TEXT),
    "generation-baby-64": Workload("generation", "gpt2:baby", BABY_TEXT, texts=64, heavy=True),
    "generation-small-1": Workload("generation", "gpt2:small", SMALL_TEXT, heavy=True),
    "generation-small-64": Workload("generation", "gpt2:small", SMALL_TEXT, texts=64, heavy=True),
    "start": Workload("start", "gpt2:laptop", {}),
    "help": Workload("command", "gpt2:laptop", {}),
    "wrong-flag": Workload("command", "gpt2:laptop", {}),
    **{f"input-{stage}": Workload("input", stage, {}) for stage in default.LADDER},
}


def experiment(name: str, *, smoke: bool) -> str:
    """Returns a workload's experiment, as --config names it after experiments/."""
    stage, _, preset = WORKLOADS[name].experiment.partition(":")
    return f"{stage}.py:{'smoke' if smoke else preset}".removesuffix(":")


def config_of(name: str, *, smoke: bool, num_tokens: int) -> ConfigDict:
    """Returns a workload's config; `smoke` changes the preset to the experiment's smallest size.

    Raises UserError if the prompt and `num_tokens` more do not fit into the context.
    """
    workload = WORKLOADS[name]
    config = config_named(experiment(name, smoke=smoke))
    config.update_from_flattened_dict(workload.changes)
    room = config.model.context_length - PROMPT_LENGTH
    if workload.kind == "generation":
        if not 1 <= num_tokens <= room:
            raise errors.UserError(
                f"--tokens={num_tokens}: expected 1 to {room}, because {name} has a context of "
                f"{config.model.context_length} and a prompt of {PROMPT_LENGTH}"
            )
        config.sample.num_tokens = num_tokens
    return config


def config_named(experiment: str) -> ConfigDict:
    """Returns the config of an experiment, named as --config names it after experiments/."""
    stage, _, preset = experiment.partition(".py")
    return importlib.import_module(f"experiments.{stage}").get_config(preset.lstrip(":"))


def prepare(workload: Workload, config: ConfigDict) -> rounds.Job:
    """Loads the data and returns the job for the workers."""
    data = corpus.load(config.data)
    arrays = {}  # A worker of kind "input" draws its own batches.
    if workload.kind == "training":
        arrays = {"batches_KBT": next(draw(data, config))}
    elif workload.kind == "evaluation":
        arrays = evaluation(data, config)
    elif workload.kind == "generation":
        prompt = np.asarray(data.val[:PROMPT_LENGTH], np.int32)
        arrays = {"prompts_BT": np.tile(prompt, (workload.texts, 1))}
    return rounds.Job(workload.kind, config, data.tokenizer.vocab_size, workload.heavy, arrays)


def draw(
    data: corpus.Corpus, config: ConfigDict, num_steps: int | None = None
) -> Iterator[np.ndarray]:
    """Yields a run's training batches [K, B, T + 1], for its own number of steps by default."""
    drawn = batches.train_batches(
        data.train,
        seed=config.seed,
        batch_size=config.train.batch_size,
        context_length=config.model.context_length,
        steps_per_dispatch=config.train.steps_per_dispatch,
        start_step=0,
        num_steps=config.train.num_steps if num_steps is None else num_steps,
    )
    return (batches_KBT for _, batches_KBT in drawn)


def evaluation(data: corpus.Corpus, config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns every window of the validation split, and the mask of its targets."""
    chunks = batches.eval_windows(
        data.val,
        batch_size=config.eval.batch_size,
        context_length=config.model.context_length,
        batches_per_chunk=1,  # No padding but in the last batch.
    )
    windows_CBT, mask_CBT = zip(*chunks, strict=True)
    return {"windows_NBT": np.concatenate(windows_CBT), "mask_NBT": np.concatenate(mask_CBT)}
