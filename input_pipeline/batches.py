"""Windows of tokens: random ones to train on, and all of a split to evaluate on.

A training batch is a pure function of (tokens, seed, step): there is no iterator state to save, and
a resumed run sees the batches that the uninterrupted one would have seen.
"""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from runtime.errors import UserError


def check_lengths(train: np.ndarray, val: np.ndarray, context_length: int) -> None:
    """Raises UserError if a split is too short for a training window or an evaluation target."""
    if len(train) <= context_length:
        raise UserError(
            f"--config.model.context_length={context_length}: expected less than the {len(train)} "
            "tokens of the training split: lower it or give more text"
        )
    if len(val) < 2:
        raise UserError(
            f"the validation split has {len(val)} tokens: expected at least 2; give more text"
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

    The first dispatch contains `start_step`, the last one step `num_steps - 1`. Each window starts
    at one of `len(tokens) - T` offsets, drawn uniformly. `tokens` (1-d) must hold at least one
    window: see `check_lengths`.
    """
    # np.asarray drops the subclass np.memmap, whose indexing costs more than the gather itself.
    windows = sliding_window_view(np.asarray(tokens), context_length + 1)
    counters = -(-batch_size // 4)

    def draw(first_step: int) -> tuple[int, np.ndarray]:
        # Philox (Salmon et al., 2011) is counter-based, so it can start at any step: step s owns
        # the ceil(B / 4) counter values from s * ceil(B / 4) on, four draws each, for any K. Its
        # key can't be negative.
        generator = np.random.Philox(key=seed % 2**64).advance(first_step * counters)
        draws = generator.random_raw(steps_per_dispatch * counters * 4)
        draws_KB = draws.reshape(steps_per_dispatch, -1)[:, :batch_size]
        # The bias of the modulo towards low offsets is at most len(windows) / 2**64.
        return first_step, windows[draws_KB % len(windows)].astype(np.int32)

    first_step = start_step // steps_per_dispatch * steps_per_dispatch
    last = num_steps if start_step < num_steps else first_step
    # Lazy, with no prefetching: a draw takes microseconds, while the device is busy.
    return map(draw, range(first_step, last, steps_per_dispatch))


def eval_windows(
    tokens: np.ndarray, *, batch_size: int, context_length: int, batches_per_chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (int32 windows [C, B, T+1], bool mask [C, B, T] of targets) for all of a split.

    Every token of `tokens` (1-d) after the first is a target exactly once, in order; the mask
    excludes the padding of the last window, batch and chunk. All chunks have one shape,
    C <= batches_per_chunk. `tokens` must hold at least 2: see `check_lengths`.
    """
    num_targets = len(tokens) - 1
    num_batches = -(-num_targets // (batch_size * context_length))
    num_chunks = -(-num_batches // batches_per_chunk)
    # Even chunks, so that the last one is not mostly padding.
    C = -(-num_batches // num_chunks)
    size = C * batch_size * context_length
    for start in range(0, num_chunks * size, size):
        present = tokens[start : start + size + 1]
        padded = np.zeros(size + 1, np.int32)
        padded[: len(present)] = present
        # The last target of one window is the first input of the next.
        windows = sliding_window_view(padded, context_length + 1)[::context_length]
        windows_CBT = np.ascontiguousarray(windows).reshape(C, batch_size, -1)
        mask = np.arange(1, size + 1) < len(present)
        yield windows_CBT, mask.reshape(C, batch_size, context_length)
