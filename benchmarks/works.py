"""What is measured, by name: each work is an experiment with changes, and what is done with it."""

import importlib
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from benchmarks import rounds
from input_pipeline import batches, corpus
from runtime import errors

PROMPT_LENGTH = 8
STAGES = ["bigram", "self_attention", "multi_head_attention", "transformer_decoder", "gpt2"]


class Work(NamedTuple):
    """One name of the table."""

    kind: str
    experiment: str  # With a preset after a colon.
    changes: dict[str, int | float]
    texts: int = 1  # Written side by side.
    heavy: bool = False  # Its passes take seconds.


# A pass of seconds has one update.
BABY = {"train.steps_per_dispatch": 1}
BABY_8 = {"train.batch_size": 8, **BABY}
SMALL = {"model.context_length": 256, "train.batch_size": 2}
NO_DROPOUT = {"model.dropout_rate": 0.0}
# Room for the prompt and what follows it, on both sides.
BABY_TEXT = {"model.context_length": 512}
SMALL_TEXT = {"model.context_length": 1024}

WORKS = {
    "bigram": Work("training", "bigram", {"train.batch_size": 32, "model.context_length": 8}),
    "self_attention": Work("training", "self_attention", {}),
    "multi_head_attention": Work("training", "multi_head_attention", {}),
    "transformer_decoder": Work("training", "transformer_decoder", {}),
    "laptop": Work("training", "gpt2:laptop", {}),
    "baby": Work("training", "gpt2:baby", BABY, heavy=True),
    "baby-no-dropout": Work("training", "gpt2:baby", {**BABY, **NO_DROPOUT}, heavy=True),
    "baby-8": Work("training", "gpt2:baby", BABY_8, heavy=True),
    "baby-8-no-dropout": Work("training", "gpt2:baby", {**BABY_8, **NO_DROPOUT}, heavy=True),
    "small": Work("training", "gpt2:small", SMALL, heavy=True),
    "evaluation": Work("evaluation", "gpt2:laptop", {}),
    "generation-baby-1": Work("generation", "gpt2:baby", BABY_TEXT),
    "generation-baby-64": Work("generation", "gpt2:baby", BABY_TEXT, texts=64, heavy=True),
    "generation-small-1": Work("generation", "gpt2:small", SMALL_TEXT, heavy=True),
    "generation-small-64": Work("generation", "gpt2:small", SMALL_TEXT, texts=64, heavy=True),
    "start": Work("start", "gpt2:laptop", {}),
    "help": Work("command", "gpt2:laptop", {}),
    "wrong-flag": Work("command", "gpt2:laptop", {}),
    **{f"input-{stage}": Work("input", stage, {}) for stage in STAGES},
}


def experiment(name: str, *, smoke: bool) -> str:
    """The experiment of a work, as --config names it after experiments/."""
    stage, _, preset = WORKS[name].experiment.partition(":")
    return f"{stage}.py:{'smoke' if smoke else preset}".removesuffix(":")


def config_of(name: str, *, smoke: bool, num_tokens: int) -> ConfigDict:
    """A work's config; `smoke` takes the experiment's smallest size, the changes stay.

    Raises UserError if what is to be written does not fit into the context.
    """
    work = WORKS[name]
    config = config_named(experiment(name, smoke=smoke))
    config.update_from_flattened_dict(work.changes)
    room = config.model.context_length - PROMPT_LENGTH
    if work.kind == "generation":
        if not 1 <= num_tokens <= room:
            raise errors.UserError(
                f"--tokens={num_tokens}: expected 1 to {room}, for {name} has a context of "
                f"{config.model.context_length} and a prompt of {PROMPT_LENGTH}"
            )
        config.sample.num_tokens = num_tokens
    return config


def config_named(experiment: str) -> ConfigDict:
    """Returns the config of an experiment, named as --config names it after experiments/."""
    stage, _, preset = experiment.partition(".py")
    return importlib.import_module(f"experiments.{stage}").get_config(preset.lstrip(":"))


def load(work: Work, config: ConfigDict) -> rounds.Work:
    """What workers need of a work with that config; the data set is read for it."""
    data = corpus.load(config.data)
    arrays = {}  # The input pipeline makes its own.
    if work.kind == "training":
        arrays = training(data, config)
    elif work.kind == "evaluation":
        arrays = evaluation(data, config)
    elif work.kind == "generation":
        arrays = generation(data, work.texts)
    return rounds.Work(work.kind, config, data.tokenizer.vocab_size, work.heavy, arrays)


def training(data: corpus.Corpus, config: ConfigDict) -> dict[str, np.ndarray]:
    """The first dispatch of a run."""
    _, batches_KBT = next(
        batches.train_batches(
            data.train,
            seed=config.seed,
            batch_size=config.train.batch_size,
            context_length=config.model.context_length,
            steps_per_dispatch=config.train.steps_per_dispatch,
            start_step=0,
            num_steps=config.train.num_steps,
        )
    )
    return {"batches_KBT": batches_KBT}


def evaluation(data: corpus.Corpus, config: ConfigDict) -> dict[str, np.ndarray]:
    """Every window of the validation split."""
    chunks = batches.eval_windows(
        data.val,
        batch_size=config.eval.batch_size,
        context_length=config.model.context_length,
        batches_per_chunk=1,  # A whole number of batches: no more padding than the last one's.
    )
    windows_CBT, mask_CBT = zip(*chunks, strict=True)
    return {"windows_NBT": np.concatenate(windows_CBT), "mask_NBT": np.concatenate(mask_CBT)}


def generation(data: corpus.Corpus, texts: int) -> dict[str, np.ndarray]:
    """The beginning of the validation split, as often as there are texts."""
    prompt = np.asarray(data.val[:PROMPT_LENGTH], np.int32)
    return {"prompts_BT": np.tile(prompt, (texts, 1))}
