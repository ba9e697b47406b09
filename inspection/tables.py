"""Tables of a model: what follows one token, and what embeddings of tokens and positions are like.

Parameters are found by their shapes and names, not by the model's: tables of embeddings have a row
a token, or a row a position.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from checkpoints.file_format import named_leaves
from inspection.ngrams import ABSENT
from inspection.scores import Scores
from inspection.subject import Subject, pieces_of
from inspection.yardstick import NUM_COUNTED, NUM_NUMBERS
from runtime import programs

# Most frequent tokens of the training text: in the table of what follows, and in the map.
NUM_FOLLOWING, NUM_MAPPED = 20, 96
NUM_NEIGHBOURS = 5
NUM_POSITIONS = 32


@partial(jax.jit, static_argnames="model")
def logs_after(model: nn.Module, params: Any, tokens_N: jax.Array) -> jax.Array:
    """Returns the log-probabilities of what follows each token alone, [N, V]."""
    logits_N1V = model.apply({"params": params}, tokens_N[:, None])
    assert isinstance(logits_N1V, jax.Array)
    return jax.nn.log_softmax(logits_N1V[:, 0])


def measure(subject: Subject, scores: Scores) -> dict:
    """Returns the tables; None for those that the model does not have."""
    subject = subject._replace(train=subject.train[:NUM_COUNTED])
    # Of tokens with another one after them.
    frequent = most_frequent(subject.train[:-1], NUM_MAPPED)
    embeddings = {
        name: np.asarray(leaf)
        for name, leaf in named_leaves(subject.params).items()
        if name.rpartition("/")[2] == "embedding"
    }
    V = subject.tokenizer.vocab_size
    of_positions = [leaf for name, leaf in embeddings.items() if "position" in name]
    # A context may be as long as the vocabulary is large.
    of_tokens = [
        leaf for name, leaf in embeddings.items() if "position" not in name and len(leaf) == V
    ]
    return {
        "pieces": pieces_of(subject.tokenizer, frequent),
        "following": following(subject, frequent[:NUM_FOLLOWING]),
        "tokens": tokens_like(of_tokens[0][frequent]) if of_tokens else None,
        "positions": positions_like(of_positions[0]) if of_positions else None,
    }


def most_frequent(tokens: np.ndarray, most: int) -> np.ndarray:
    """Returns the tokens of a text that occur most, in that order."""
    found, counts = np.unique(tokens, return_counts=True)
    return found[np.argsort(-counts, kind="stable")[:most]]


def following(subject: Subject, chosen: np.ndarray) -> dict:
    """Returns what follows each token alone, by the model and by counting the training text.

    `distance` is the mean Kullback-Leibler divergence of the model from the counts, over the text's
    tokens as often as they occur; of a large vocabulary, over the most frequent ones, which are
    `share` of the text.
    """
    V = subject.tokenizer.vocab_size
    train = np.asarray(subject.train, np.int64)
    befores = most_frequent(train[:-1], max(NUM_NUMBERS // V, len(chosen)))
    row_of = np.full(V, ABSENT)
    row_of[befores] = np.arange(len(befores))
    places = row_of[train[:-1]]
    seen = places != ABSENT
    keys, counts = np.unique(places[seen] * V + train[1:][seen], return_counts=True)
    totals = np.bincount(places[seen])
    p_counts = counts / totals[keys // V]
    args = (subject.params, befores.astype(np.int32))
    logs_NV = np.asarray(programs.for_model(logs_after, (subject.model,), args)(*args), np.float64)
    weights = counts / counts.sum()
    distance = (weights * (np.log(p_counts) - logs_NV[keys // V, keys % V])).sum()
    rows = row_of[chosen]
    at = rows[:, None] * V + chosen[None]
    found = np.minimum(np.searchsorted(keys, at), len(keys) - 1)
    return {
        "model": np.exp(logs_NV[rows][:, chosen]).round(3).tolist(),
        "counts": np.where(keys[found] == at, p_counts[found], 0).round(3).tolist(),
        "distance": float(distance),
        "share": float(seen.mean()),
    }


def tokens_like(rows_ND: np.ndarray) -> dict:
    """Returns the nearest rows of each, and a map of all: their first two principal components."""
    similar = cosines(rows_ND)
    np.fill_diagonal(similar, -np.inf)
    order = np.argsort(-similar, axis=1)[:, :NUM_NEIGHBOURS]
    centered = rows_ND.astype(np.float64) - rows_ND.mean(axis=0)
    left, scales, _ = np.linalg.svd(centered, full_matrices=False)
    components = (left * scales)[:, :2]
    # One token, or embeddings of one number, have one component.
    components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    total = max((scales**2).sum(), np.finfo(float).tiny)
    return {
        "neighbours": order[:, : len(rows_ND) - 1].tolist(),
        "map": components.round(4).tolist(),
        "explained": float((components**2).sum() / total),
    }


def positions_like(rows_TD: np.ndarray) -> dict:
    """Returns the similarity of positions spread over the context."""
    last = len(rows_TD) - 1
    places = np.unique(np.linspace(0, last, min(NUM_POSITIONS, last + 1)).astype(int))
    return {
        "places": (places + 1).tolist(),
        "similarity": cosines(rows_TD[places]).round(3).tolist(),
    }


def cosines(rows_ND: np.ndarray) -> np.ndarray:
    """Returns the cosine of the angle between each two rows, [N, N]."""
    rows_ND = rows_ND.astype(np.float64)
    lengths = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    unit = rows_ND / np.maximum(lengths, np.finfo(float).tiny)
    return unit @ unit.T
