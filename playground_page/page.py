"""Renders the page: models as text, a worker that computes them, and the scripts that show them.

A model's weights are in an element of their own, which the page hands to the worker unread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from input_pipeline.batches import Split
from input_pipeline.pairs import Pairs
from input_pipeline.shards import Shards
from input_pipeline.tokenizers import Tokenizer, suited
from playground_page import exporter, scripts, vocabulary
from reporting import template
from reporting.runs import Run, number, sanitize

# Held-out passages, for looking and for the games, in characters.
NUM_PASSAGES, PASSAGE_LENGTH = 24, 400
PROMPT = "ROMEO:\n"
# Keys of `config.data` that say which text a run has.
TEXT = ("name", "path", "val_path", "field", "prompt_field")


@dataclass(frozen=True)
class Entry:
    """A model in the page: what people see of it, what the worker opens, texts, and a prompt."""

    shown: dict[str, Any]
    exported: dict[str, Any]
    passages: list[str]
    text: tuple[Any, ...]  # The text that it was trained on.
    prompt: str


def entry(
    run: Run,
    model: nn.Module,
    params: Any,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    notes: str,
    text: tuple[Any, ...] = (),
    held_out: Split | None,
    dtype: str,
) -> Entry:
    """Returns the model of a run, its weights rounded to `dtype`, with passages of a split, if any.

    `text` has the settings TEXT, which are the same for runs of one text.

    Raises UserError, in one line that names the run, for what the page can't carry.
    """
    name = sanitize(run.name)
    params = exporter.rounded(params, dtype, name)
    tree = exporter.export(model, params, dtype, name)
    exported = {
        "tree": tree,
        "dtype": dtype,
        "tokenizer": vocabulary.exported(tokenizer),
        "context_length": context_length,
        "check": exporter.check(model, params, tokenizer.vocab_size, context_length, name),
    }
    shown = {
        "name": name,
        "notes": sanitize(notes),
        "loss": number(run.summary.get("val/loss")),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "context_length": context_length,
        "tokenizer": tokenizer.digest,
        **exporter.switches(tree),
    }
    texts = [] if held_out is None else passages(held_out, tokenizer)
    return Entry(shown, exported, texts, text, suited(PROMPT, tokenizer))


def passages(split: Split, tokenizer: Tokenizer) -> list[str]:
    """Returns passages from all over a split, from the beginning of a line or a word on."""
    if isinstance(split, Shards):
        tokens = split.arrays[0]
    else:
        tokens = split.tokens if isinstance(split, Pairs) else split
    length = 3 * PASSAGE_LENGTH  # In tokens, of which each has one character or more, or a byte.
    found = []
    for start in np.unique(np.linspace(0, max(len(tokens) - length, 0), NUM_PASSAGES).astype(int)):
        some = np.asarray(tokens[start : start + length]).astype(np.int64)
        text = tokenizer.decode(np.where(some < 0, ~some, some))
        for sign in ("\n", " "):
            before, _, after = text.partition(sign)
            if len(before) < PASSAGE_LENGTH <= len(after):
                text = after
                break
        found.append(text[:PASSAGE_LENGTH])
    return [text for text in dict.fromkeys(found) if len(text) > 1]


def render(entries: Sequence[Entry], unread: Sequence[str]) -> str:
    """Returns the page of these models."""
    source = next((entry for entry in entries if entry.passages), entries[0])
    is_alike = all(entry.text == source.text for entry in entries)
    return template.fill(
        "playground.html",
        [template.read("elements.js"), *map(scripts.read, scripts.PAGE)],
        folder=scripts.HERE,
        worker=scripts.worker(),
        version="",
        title=f"{len(entries)} models in one page" if entries[1:] else "A model in a page",
        entries=entries,
        unread=unread,
        data={
            "models": [entry.shown for entry in entries],
            "passages": source.passages,
            # Of whom these passages are held out, if not of all.
            "held_out_of": "" if is_alike else source.shown["name"],
            "prompt": entries[0].prompt,
        },
    )
