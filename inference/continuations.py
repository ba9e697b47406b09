"""Probabilities of continuations: how likely a model finds a text after a prompt."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from inference import metrics, rows
from input_pipeline.examples import Example
from input_pipeline.tokenizers import Tokenizer
from models import sharding
from runtime.errors import UserError

MIN_LENGTH = 16  # Shorter windows are padded to it.


class Scores(NamedTuple):
    """Scores of continuations, an array each, [N]."""

    nats: np.ndarray  # -log p of the whole continuation, given its prompt.
    num_tokens: np.ndarray
    are_greedy: np.ndarray  # True where each token is the most likely one.


class Window(NamedTuple):
    """A prompt with one continuation, as tokens, of which the last `num_targets` are scored."""

    tokens: np.ndarray
    num_targets: int


@partial(jax.jit, static_argnames="model")
def nats_and_hits(
    model: nn.Module, params: Any, windows_CBT: jax.Array, mask_CBT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns for each window the nats of its targets, and whether all are the most likely, [C, B].

    A window holds T + 1 tokens; `mask` [C, B, T] says which of the last T are targets.
    """

    def of_batch(batch):
        windows_BT, mask_BT = batch
        logits_BTV = model.apply({"params": params}, windows_BT[:, :-1])
        assert isinstance(logits_BTV, jax.Array)  # Flax would return a tuple for `mutable`.
        targets_BT = windows_BT[:, 1:]
        nats_BT = metrics.next_token_nats(logits_BTV, targets_BT)
        hits_BT = jnp.argmax(logits_BTV, axis=-1) == targets_BT
        return jnp.sum(nats_BT, axis=1, where=mask_BT), jnp.all(hits_BT, axis=1, where=mask_BT)

    found = jax.lax.map(of_batch, (windows_CBT, mask_CBT))
    return jax.tree.map(sharding.whole, found)


def score(
    model: nn.Module,
    params: Any,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    batch_size: int,
    context_length: int,
    mesh: Mesh,
) -> Scores:
    """Returns the scores of all continuations of all examples, in order.

    A prompt that does not fit the context loses its beginning. Raises UserError for text that the
    tokenizer does not know, and for a continuation longer than the context.
    """
    windows = [
        one for example in examples for one in windows_of(example, tokenizer, context_length)
    ]
    num_tokens = np.array([window.num_targets for window in windows])
    nats, are_greedy = np.empty(len(windows)), np.empty(len(windows), bool)
    of_rows = rows.over(nats_and_hits, model, params, mesh)
    for numbers, tokens_1BT, mask_1BT in batched(windows, batch_size, context_length):
        found = of_rows(tokens_1BT, mask_1BT)
        of_nats, of_hits = (np.asarray(one)[0, : len(numbers)] for one in found)
        nats[numbers], are_greedy[numbers] = of_nats, of_hits
    return Scores(nats, num_tokens, are_greedy)


def windows_of(example: Example, tokenizer: Tokenizer, context_length: int) -> Iterator[Window]:
    """Yields the window of each continuation of an example. Raises UserError as `score` does."""
    try:
        prompt = tokenizer.encode(example.prompt)
        continuations = [tokenizer.encode(text) for text in example.continuations]
    except UserError as error:
        raise UserError(f"{example.where}: {error}") from None
    for tokens in continuations:
        if len(tokens) > context_length:
            raise UserError(
                f"{example.where}: a continuation has {len(tokens)} tokens: expected at most "
                f"{context_length}, the model's context"
            )
        whole = np.concatenate([prompt, tokens])
        yield Window(whole[-context_length - 1 :], len(tokens))


def batched(
    windows: Sequence[Window], batch_size: int, context_length: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the numbers of up to B windows, and [1, B, T + 1] tokens and [1, B, T] masks of them.

    T is a power of two or the context, so that few programs are compiled and little is padding.
    """
    sizes = np.array([padded_length(len(one.tokens) - 1, context_length) for one in windows])
    for T in np.unique(sizes):
        of_size = np.flatnonzero(sizes == T)
        for first in range(0, len(of_size), batch_size):
            numbers = of_size[first : first + batch_size]
            tokens_BT = np.zeros((batch_size, T + 1), np.int32)
            mask_BT = np.zeros((batch_size, T), bool)
            for row, number in enumerate(numbers):
                tokens, num_targets = windows[number]
                tokens_BT[row, : len(tokens)] = tokens
                mask_BT[row, len(tokens) - 1 - num_targets : len(tokens) - 1] = True
            yield numbers, tokens_BT[None], mask_BT[None]


def padded_length(length: int, context_length: int) -> int:
    """Returns the power of two from MIN_LENGTH on that `length` fits, or else the context."""
    return min(max(MIN_LENGTH, 1 << (length - 1).bit_length()), context_length)
