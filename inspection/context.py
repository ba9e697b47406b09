"""Use of context: the loss with only the last c characters, and the loss by position in a window.

A window of c tokens leaves a model no more than c tokens to use, whatever its weights point at. It
is also a window as in training, whose first position is the beginning of the text that it sees.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from inference import metrics
from inspection import windows
from runtime import programs

NUM_TARGETS = 2048
TOKENS_PER_BATCH = 4096


@partial(jax.jit, static_argnames="model")
def nats_of_last(model: nn.Module, params: Any, windows_CBT: jax.Array) -> jax.Array:
    """Returns the nats of the last token of each window, after all before it, [C, B]."""

    def of_batch(windows_BT: jax.Array) -> jax.Array:
        logits_BTV = model.apply({"params": params}, windows_BT[:, :-1])
        assert isinstance(logits_BTV, jax.Array)
        return metrics.next_token_nats(logits_BTV[:, -1:], windows_BT[:, -1:])[:, 0]

    return jax.lax.map(of_batch, windows_CBT)


def measure(model: nn.Module, params: Any, tokens: np.ndarray, context_length: int) -> dict:
    """Returns the loss with the last 1, 2, 4, ... tokens, over the same targets spread over a text.

    `difference` is paired: that loss minus the loss with the whole context. Errors are standard
    errors of the means.
    """
    lengths = context_lengths(context_length)
    targets = spread(len(tokens), context_length)
    nats_CN = np.stack([nats_with(model, params, tokens, targets, c) for c in lengths])
    return {
        "num_targets": len(targets),
        "lengths": lengths,
        **windows.mean_and_error("loss", nats_CN),
        **windows.mean_and_error("difference", nats_CN - nats_CN[-1]),
    }


def context_lengths(context_length: int) -> list[int]:
    """Returns the powers of two below a context length, and that."""
    return [*(2**n for n in range((context_length - 1).bit_length())), context_length]


def spread(num_tokens: int, context_length: int) -> np.ndarray:
    """Returns the places of at most NUM_TARGETS tokens that have a whole context before them."""
    num = min(NUM_TARGETS, max(num_tokens - context_length, 0))
    return np.linspace(context_length, num_tokens - 1, num).astype(int)


def nats_with(
    model: nn.Module, params: Any, tokens: np.ndarray, targets: np.ndarray, length: int
) -> np.ndarray:
    """Returns the nats of each target after the `length` tokens before it."""
    texts = tokens[targets[:, None] + np.arange(-length, 1)].astype(np.int32)
    num_batches = -(-len(targets) * length // TOKENS_PER_BATCH)
    size = -(-len(targets) // num_batches)
    padded = np.resize(texts, (num_batches, size, length + 1))
    args = (params, padded)
    nats = programs.for_model(nats_of_last, (model,), args)(*args)
    return np.asarray(nats, np.float64).ravel()[: len(targets)]


def by_position(nats: np.ndarray, context_length: int) -> list[dict]:
    """Returns the loss in parts of a window whose ends are powers of two.

    `nats` are those of an exact evaluation, in windows of `context_length` one after the other.
    """
    whole = len(nats) // context_length
    nats_WT = nats[: whole * context_length].reshape(whole, context_length)
    lasts = context_lengths(context_length)
    parts = []
    for before, last in zip([0, *lasts], lasts, strict=False):
        # Neighbours in a window depend on each other: a window is one observation.
        of_windows = nats_WT[:, before:last].mean(axis=1, keepdims=True).T
        part = {
            name: values[0] for name, values in windows.mean_and_error("loss", of_windows).items()
        }
        parts.append({"first": before + 1, "last": last, **part})
    return parts
