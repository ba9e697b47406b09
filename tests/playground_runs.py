"""Runs for tests of the page that playground.py writes: run folders that nobody trained.

Their weights are random and large, so that every part of a model shows in its logits. A model that
has hardly trained writes one character again and again.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import harness
import models
import run_folder
from checkpoints import file_format
from input_pipeline import corpus, text_files
from input_pipeline.tokenizers import CharTokenizer
from playground_page import page
from reporting.runs import Run

# Characters of models without a text.
CHARACTERS = "".join(map(chr, range(33, 33 + 65)))
# Characters of the text that the runs have.
TEXT_LENGTH = 20_000
STEP, LOSS = 7, 2.5


def random_params(model, seed=0):
    """Returns random parameters; those that are 0 or 1 before a training are neither."""
    rng = np.random.default_rng(seed)
    tokens_11 = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_11)["params"]

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape)
        if name == "kernel":
            return 1.5 * noise / leaf.shape[0] ** 0.5
        if name == "embedding":
            return 2 * noise / min(leaf.shape) ** 0.5
        return 0.3 * noise + (name == "scale")

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)


def write_text(path):
    """Writes the beginning of Tiny Shakespeare."""
    data = corpus.load(harness.config_of("bigram:smoke", {}).data)
    path.write_text(data.tokenizer.decode(data.train[:TEXT_LENGTH]))


def write_run(folder: Path, experiment: str, text: Path, *, edit=lambda params: params, **changes):
    """Writes the run folder of an experiment on a text; `edit` may change the parameters."""
    config = harness.config_of(experiment, {"data.name": "text", "data.path": str(text), **changes})
    tokenizer = corpus.load(config.data).tokenizer
    params = random_params(models.build(config.model, tokenizer.vocab_size))
    folder.mkdir(parents=True)
    run_folder.write_json(folder / run_folder.CONFIG, config.to_dict())
    tokenizer.save(folder / run_folder.TOKENIZER)
    run_folder.append_line(folder / run_folder.METRICS, {"step": STEP, "val/loss": LOSS})
    run_folder.write_json(folder / run_folder.SUMMARY, {"status": "finished", "val/loss": LOSS})
    metadata = {
        "step": STEP,
        "progress": {},
        "val/loss": LOSS,
        "tokenizer": text_files.digest([folder / run_folder.TOKENIZER]),
    }
    path = folder / run_folder.CHECKPOINTS / str(STEP)
    file_format.write(path, {"params": edit(params)}, metadata)


def open_entry(name, model, params, context_length, dtype="float32"):
    """Returns the entry of a model in the page. Its characters are its tokens."""
    return page.entry(
        Run(name, Path(), {}, {}, {}, [], [], None),
        model,
        params,
        CharTokenizer(CHARACTERS[: model.vocab_size]),
        context_length=context_length,
        notes="",
        held_out=None,
        dtype=dtype,
    )
