"""The views of a model: a name, and the function that measures it."""

from collections.abc import Callable
from functools import partial

import numpy as np

from inspection import (
    account,
    context,
    growth,
    heads,
    layers,
    passage,
    scores,
    tables,
    tokens,
    yardstick,
)
from inspection.scores import Scores
from inspection.subject import Subject, pieces_of

# None where a model does not have what a view shows.
View = Callable[[Subject, Scores], dict | None]


def look_back(subject: Subject, found: Scores) -> dict:
    """Returns the loss with fewer tokens of context, and by position in a window."""
    model, params, tokens = subject.model, subject.params, subject.tokens
    return {
        **context.measure(model, params, tokens, subject.context_length),
        "positions": context.by_position(found.nats, subject.context_length),
    }


def look_at_heads(subject: Subject, found: Scores) -> dict | None:
    """Returns the scores of all heads, and their weights on the beginning of the passage."""
    model, params = subject.model, subject.params
    measured = heads.measure(model, params, subject.tokens, subject.context_length)
    if measured is None:
        return None
    num = min(heads.MAX_SHOWN, subject.context_length)
    shown = subject.tokens[subject.passage][:num]
    return {
        **measured,
        "pieces": pieces_of(subject.tokenizer, shown),
        "weights": heads.shown_weights(model, params, shown),
    }


def look_through(subject: Subject, found: Scores) -> dict | None:
    """Returns what happens between the layers, on a text and on the beginning of the passage."""
    num = min(heads.MAX_SHOWN, subject.context_length)
    shown = subject.tokens[subject.passage][: num + 1]
    model, params, tokens = subject.model, subject.params, subject.tokens
    measured = layers.measure(model, params, tokens, subject.context_length, shown)
    if measured is None:
        return None
    pieces = partial(pieces_of, subject.tokenizer)
    lens, patches = measured["lens"], measured["patches"]
    if lens:
        lens["top"] = [pieces(np.array(row)) for row in lens["top"]]
    for key in ("clean_tokens", "other_tokens"):
        patches[key] = pieces(np.array(patches[key]))
    patches["target"] = pieces(np.array([patches["target"]]))[0]
    return {"pieces": pieces(shown), **measured}


VIEWS: dict[str, View] = {
    "passage": passage.measure,
    "account": account.measure,
    "tokens": tokens.measure,
    "yardstick": yardstick.measure,
    "context": look_back,
    "heads": look_at_heads,
    "layers": look_through,
    "tables": tables.measure,
    "growth": growth.measure,
}


def measure(subject: Subject, note: Callable[[str], None]) -> dict:
    """Returns all views of a model; `note` is told which one comes next."""
    found = scores.score(subject)
    loss = float(found.nats.astype(float).mean())
    measured: dict[str, dict | None] = {}
    for name, view in VIEWS.items():
        note(name)
        measured[name] = view(subject, found)
    return {"name": subject.name, "loss": loss, "views": measured}
