"""Tests of the batches: a pure function of seed and step; evaluation: every target once."""

import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import batches
from runtime.errors import UserError
from tests.command import PATIENCE

TOKENS = np.arange(1000, dtype=np.uint16)


def draw(tokens=TOKENS, **changes):
    """Returns all dispatches for these settings."""
    defaults = dict(
        seed=3, batch_size=6, context_length=5, steps_per_dispatch=4, start_step=0, num_steps=12
    )
    return list(batches.train_batches(tokens, **{**defaults, **changes}))


def by_step(dispatches):
    """Returns {step: windows [B, T+1]}."""
    return {first + k: w for first, windows in dispatches for k, w in enumerate(windows)}


def evaluate(tokens, batch_size, context_length, batches_per_chunk):
    chunks = batches.eval_windows(
        tokens,
        batch_size=batch_size,
        context_length=context_length,
        batches_per_chunk=batches_per_chunk,
    )
    return list(chunks)


def test_shapes_types_and_windows():
    dispatches = draw()
    assert [first for first, _ in dispatches] == [0, 4, 8]
    for _, windows in dispatches:
        assert (windows.shape, windows.dtype) == ((4, 6, 6), np.int32)
        # TOKENS counts up, so a window counts up if and only if it is contiguous.
        assert (np.diff(windows) == 1).all()


def test_batch_of_a_step_is_defined_by_philox():
    counters = 2  # ceil(6 / 4): four draws each.
    for step, windows in by_step(draw(seed=11)).items():
        generator = np.random.Philox(key=11).advance(step * counters)
        offsets = generator.random_raw(6) % (len(TOKENS) - 5)
        np.testing.assert_array_equal(windows[:, 0], offsets)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(0, 30), st.integers(1, 9), st.integers(1, 30))
def test_equal_across_restarts_and_dispatch_sizes(batch_size, start_step, per_dispatch, num_steps):
    size = dict(batch_size=batch_size, num_steps=num_steps)
    whole = by_step(draw(steps_per_dispatch=1, **size))
    assert list(whole) == list(range(num_steps))
    resumed = draw(steps_per_dispatch=per_dispatch, start_step=start_step, **size)
    steps = by_step(resumed)
    for step in set(whole) & set(steps):
        np.testing.assert_array_equal(whole[step], steps[step])
    if start_step >= num_steps:
        assert resumed == []
    else:
        assert resumed[0][0] == start_step // per_dispatch * per_dispatch
        assert resumed[-1][0] == (num_steps - 1) // per_dispatch * per_dispatch
        assert set(range(start_step, num_steps)) <= set(steps)


def test_seeds_and_steps_differ():
    drawn = [w.tobytes() for seed in (-1, 0, 1, 2) for w in by_step(draw(seed=seed)).values()]
    assert len(set(drawn)) == 4 * 12


def test_every_window_is_drawn_equally_often():
    tokens = np.arange(25, dtype=np.uint8)
    (_, windows), *_ = draw(tokens, batch_size=20, steps_per_dispatch=1000, num_steps=1000)
    counts = np.bincount(windows[..., 0].ravel(), minlength=20)
    # 20 windows, the first and the last included: chi-square with 19 degrees of freedom.
    assert len(counts) == 20
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # Exceeded with probability 0.001.


def test_one_window_is_enough():
    (_, windows), *_ = draw(TOKENS[:6])
    assert (windows == TOKENS[:6]).all()


def test_too_short_to_train_on():
    message = r"^--config\.model\.context_length=5: expected less than the 5 tokens of the training"
    with pytest.raises(UserError, match=message):
        batches.check_lengths(TOKENS[:5], TOKENS[:2], context_length=5)


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(1, 7), st.integers(1, 11), st.integers(1, 5))
def test_every_token_after_the_first_is_a_target_once(length, batch_size, context_length, most):
    tokens = TOKENS[:length]
    chunks = evaluate(tokens, batch_size, context_length, most)
    (shape,) = {windows.shape for windows, _ in chunks}
    assert shape[0] <= most and shape[1:] == (batch_size, context_length + 1)
    for windows, mask in chunks:
        assert mask.shape == windows[..., 1:].shape
        assert (windows.dtype, mask.dtype) == (np.int32, np.bool_)
    targets = np.concatenate([windows[..., 1:][mask] for windows, mask in chunks])
    inputs = np.concatenate([windows[..., :-1][mask] for windows, mask in chunks])
    np.testing.assert_array_equal(targets, tokens[1:])
    np.testing.assert_array_equal(inputs, tokens[:-1])
    # A window attends from its start, so masked positions may only follow the others.
    assert all((np.diff(mask.astype(int)) <= 0).all() for _, mask in chunks)


def test_evaluation_pads_less_than_a_batch_per_chunk():
    # 9 batches at most 8 at a time: 5 + 5, not 8 + 8.
    chunks = evaluate(TOKENS[: 9 * 6 + 1], batch_size=2, context_length=3, batches_per_chunk=8)
    assert [windows.shape[0] for windows, _ in chunks] == [5, 5]


def test_too_short_to_evaluate_on():
    with pytest.raises(UserError, match=r"has 1 tokens: expected at least 2"):
        batches.check_lengths(TOKENS[:6], TOKENS[:1], context_length=5)
    batches.check_lengths(TOKENS[:6], TOKENS[:2], context_length=5)


def test_splits_larger_than_memory(tmp_path):
    # A sparse file: 256 GiB of zeros that take no room on disk, and a mark in the first bytes.
    (tmp_path / "tokens").write_bytes(b"\1\2\3")
    tokens = np.memmap(tmp_path / "tokens", np.uint8, "r+", shape=2**38)
    (_, windows), *_ = draw(tokens)
    assert not windows.any()
    chunks = batches.eval_windows(tokens, batch_size=2, context_length=4, batches_per_chunk=3)
    for (windows, mask), first in zip(islice(chunks, 2), ([1, 2, 3, 0, 0], [0] * 5), strict=True):
        assert windows[0, 0].tolist() == first and mask.all()


def test_abandoned_batches_let_the_process_exit():
    code = """
import numpy as np
from input_pipeline import batches

it = batches.train_batches(
    np.zeros(10**6, np.uint8), seed=0, batch_size=64, context_length=256, steps_per_dispatch=20,
    start_step=0, num_steps=10**6)
next(it)
"""
    # All of the batches would take hours.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stderr == ""
