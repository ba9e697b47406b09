"""Windows of tokens: random ones to train on, and all of a split to evaluate on.

Of a text a window is any part of it, of pairs it is one pair (pairs.py). Of a prepared corpus
(shards.py, document_windows.py) the windows do not overlap, and each comes once an epoch, in a
random order.
A training batch is a pure function of (tokens, seed, step): there is no iterator state to save, and
a resumed run sees the batches that the uninterrupted one would have seen.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from input_pipeline.document_windows import DocumentWindows
from input_pipeline.pairs import Pairs
from input_pipeline.shards import Shards
from runtime.errors import UserError

Split = np.ndarray | Pairs | Shards  # Token ids of a text are 1-d.
Windows = Callable[[np.ndarray], np.ndarray]  # Those of some numbers.


def fitting(train: Split, val: Split, context_length: int) -> tuple[Split, Split]:
    """Returns both splits, without the pairs that are longer than a context.

    Raises UserError if a split is too short, or has no other pairs.
    """
    if isinstance(train, Pairs) and isinstance(val, Pairs):
        return (
            train.fitting(context_length, "to train on"),
            val.fitting(context_length, "of the validation split"),
        )
    assert not isinstance(train, Pairs) and not isinstance(val, Pairs)
    check_lengths(train, val, context_length)
    return train, val


def beginning(split: Split, max_tokens: int) -> Split:
    """Returns the split, up to its first `max_tokens` targets if that is not 0.

    Raises UserError for pairs, of which the answers alone are targets.
    """
    if not max_tokens:
        return split
    if isinstance(split, Pairs):
        raise UserError(f"--config.eval.max_tokens={max_tokens}: expected 0 for pairs")
    if isinstance(split, DocumentWindows):
        return split.beginning(max_tokens)
    assert isinstance(split, np.ndarray)
    return split[: max_tokens + 1]


def has_marks(split: Split) -> bool:
    """Returns True if windows hold tokens that are no targets, as their complements."""
    return isinstance(split, Pairs) or (isinstance(split, Shards) and split.is_padded)


def size(split: Split) -> tuple[int, int]:
    """Returns the number of tokens, and of those that an evaluation predicts."""
    if isinstance(split, Pairs):
        return len(split.tokens), int((split.tokens >= 0).sum())
    if isinstance(split, DocumentWindows):
        return len(split), split.num_targets
    return len(split), len(split) - 1


def check_lengths(
    train: np.ndarray | Shards, val: np.ndarray | Shards, context_length: int
) -> None:
    """Raises UserError if a split is too short for a training window or an evaluation target."""
    if isinstance(train, Shards):
        if not train.num_windows(context_length):
            raise UserError(
                f"--config.model.context_length={context_length}: expected less than the "
                f"{max(map(len, train.arrays))} tokens of the largest file: lower it"
            )
    elif len(train) <= context_length:
        raise UserError(
            f"--config.model.context_length={context_length}: expected less than the {len(train)} "
            "tokens of the training split: lower it or give more text"
        )
    if len(val) < 2:
        raise UserError(
            f"the validation split has {len(val)} tokens: expected at least 2; give more text"
        )


def train_batches(
    tokens: Split,
    *,
    seed: int,
    batch_size: int,
    context_length: int,
    steps_per_dispatch: int,
    start_step: int,
    num_steps: int,
    rows: np.ndarray | slice = slice(None),
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first_step, int32 windows [K, B, T+1]), one dispatch of K steps at a time.

    With `rows`, only those of each batch are taken from the text: the rows of one process.

    The first dispatch contains `start_step`, the last one step `num_steps - 1`. Each window starts
    at one of `len(tokens) - T` offsets, or is one of the pairs, drawn uniformly; of Shards it is
    the next one in the order of the epoch. `tokens` must hold at least one window: see `fitting`.
    A token that is no target is its complement: see `has_marks`.
    """
    first_step = start_step // steps_per_dispatch * steps_per_dispatch
    last = num_steps if start_step < num_steps else first_step
    firsts = range(first_step, last, steps_per_dispatch)
    if isinstance(tokens, Shards):
        in_batch = np.arange(batch_size)[rows]

        def of_order(first_step: int) -> tuple[int, np.ndarray]:
            steps_K1 = np.arange(first_step, first_step + steps_per_dispatch)[:, None]
            rows_KB = steps_K1 * batch_size + in_batch
            return first_step, tokens.drawn(rows_KB, context_length, seed)

        return map(of_order, firsts)
    if isinstance(tokens, Pairs):
        num_windows = tokens.num_windows(context_length)
        take: Windows = partial(tokens.windows, context_length=context_length)
    else:
        # np.asarray drops the subclass np.memmap, whose indexing costs more than the gather itself.
        windows = sliding_window_view(np.asarray(tokens), context_length + 1)
        num_windows, take = len(windows), windows.__getitem__
    counters = -(-batch_size // 4)

    def draw(first_step: int) -> tuple[int, np.ndarray]:
        # Philox (Salmon et al., 2011) is counter-based, so it can start at any step: step s owns
        # the ceil(B / 4) counter values from s * ceil(B / 4) on, four draws each, for any K. Its
        # key can't be negative.
        generator = np.random.Philox(key=seed % 2**64).advance(first_step * counters)
        draws = generator.random_raw(steps_per_dispatch * counters * 4)
        draws_KB = draws.reshape(steps_per_dispatch, -1)[:, :batch_size]
        # The bias of the modulo towards low offsets is at most num_windows / 2**64.
        return first_step, take(draws_KB[:, rows] % num_windows).astype(np.int32)

    # Lazy, with no prefetching: a draw takes microseconds, while the device is busy.
    return map(draw, firsts)


def eval_windows(
    tokens: Split, *, batch_size: int, context_length: int, batches_per_chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (int32 windows [C, B, T+1], bool mask [C, B, T] of targets) for all of a split.

    Every token of a text after the first, and every target of marked windows, is a target once, in
    order; the mask excludes the padding of the last window, batch and chunk. All chunks have one
    shape, C <= batches_per_chunk. `tokens` must hold something to predict: see `fitting`.
    """
    assert isinstance(tokens, np.ndarray) or has_marks(tokens)
    if isinstance(tokens, np.ndarray):
        num_windows = -(-(len(tokens) - 1) // context_length)
    else:
        num_windows = tokens.num_windows(context_length)
    num_batches = -(-num_windows // batch_size)
    num_chunks = -(-num_batches // batches_per_chunk)
    # Even chunks, so that the last one is not mostly padding.
    C = -(-num_batches // num_chunks)
    if not isinstance(tokens, np.ndarray):
        for numbers_CB in np.arange(num_chunks * C * batch_size).reshape(-1, C, batch_size):
            marked_CBT = tokens.windows(numbers_CB, context_length)
            yield np.maximum(marked_CBT, ~marked_CBT), marked_CBT[..., 1:] >= 0
        return
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
