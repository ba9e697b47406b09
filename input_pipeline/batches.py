"""Windows of tokens: random ones to train on, and every one of a split to evaluate on.

A training batch is a pure function of (tokens, seed, step): nothing to save, nothing to restore,
and a run that resumes sees the batches that the uninterrupted one would have seen.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from runtime.errors import UserError


def check_lengths(train: np.ndarray, val: np.ndarray, context_length: int) -> None:
    """Raises UserError where a training window, or a target to evaluate on, finds no room."""
    if len(train) <= context_length:
        raise UserError(
            f"the training split has {len(train)} tokens, but a window takes {context_length + 1} "
            f"(context_length {context_length} and the one after): lower "
            "--config.model.context_length or give more text"
        )
    if len(val) < 2:
        raise UserError(
            f"the validation split has {len(val)} tokens, but at least 2 are needed (one to "
            "predict from, one to predict): give more text"
        )


def train_batches(
    tokens: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    context_length: int,
    steps_per_dispatch: int,
    start_step: int,
    num_steps: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first_step, int32 windows [K, B, T+1]), one dispatch of K steps at a time.

    The first dispatch holds `start_step`, the last one step `num_steps - 1`. Windows start at any
    of the `len(tokens) - T` places, each as likely as the others. `tokens` (1-d) hold at least one
    window: see `check_lengths`.
    """
    # A plain view of a memory map: indexing an np.memmap costs more than the gather.
    windows = sliding_window_view(np.asarray(tokens), context_length + 1)
    counters = -(-batch_size // 4)

    def draw(first_step: int) -> tuple[int, np.ndarray]:
        # Philox counts, so it can start at any step: step s owns the ceil(B / 4) counter values
        # from s * ceil(B / 4) on, four draws each, whatever K is. It takes no negative key.
        generator = np.random.Philox(key=seed % 2**64).advance(first_step * counters)
        draws = generator.random_raw(steps_per_dispatch * counters * 4)
        draws_KB = draws.reshape(steps_per_dispatch, -1)[:, :batch_size]
        # The remainder favours low offsets by no more than len(windows) / 2**64.
        return first_step, windows[draws_KB % len(windows)].astype(np.int32)

    first_step = start_step // steps_per_dispatch * steps_per_dispatch
    last = num_steps if start_step < num_steps else first_step
    # Drawn when it is asked for: that takes microseconds, and the device is at work meanwhile.
    return map(draw, range(first_step, last, steps_per_dispatch))


def eval_windows(
    tokens: np.ndarray, *, batch_size: int, context_length: int, batches_per_chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (int32 windows [C, B, T+1], bool mask [C, B, T] of targets) for all of a split.

    Every token of `tokens` (1-d) after the first is a target exactly once, in order; what fills up
    the last window, batch and chunk is masked. All chunks have one shape, C <= batches_per_chunk.
    `tokens` are at least 2: see `check_lengths`.
    """
    num_targets = len(tokens) - 1
    num_batches = -(-num_targets // (batch_size * context_length))
    num_chunks = -(-num_batches // batches_per_chunk)
    # Spread evenly, so that the last chunk is not mostly padding.
    chunk_shape = (-(-num_batches // num_chunks), batch_size, context_length)
    return (_chunk(tokens, index, chunk_shape) for index in range(num_chunks))


def _chunk(tokens: np.ndarray, index: int, chunk_shape: tuple[int, int, int]):
    """Windows and mask of chunk `index` of those that cut `tokens` into (C, B, T) targets each."""
    size, context_length = math.prod(chunk_shape), chunk_shape[-1]
    inputs_and_next = np.zeros(size + 1, np.int32)
    present = np.asarray(tokens[index * size : (index + 1) * size + 1])
    inputs_and_next[: len(present)] = present
    # Neighbours share a token: the last target of one window is the first input of the next.
    windows = sliding_window_view(inputs_and_next, context_length + 1)[::context_length]
    mask = np.arange(1, size + 1) < len(present)
    return np.ascontiguousarray(windows).reshape(*chunk_shape[:2], -1), mask.reshape(chunk_shape)
