"""Use of context: the loss with c tokens against each window run alone, and known models."""

import jax
import numpy as np
import optax
import pytest

from inspection import context
from tests import circuits
from tests.circuits import T, V
from tests.stages import TINY, init
from tests.stages import T as TINY_T
from tests.stages import V as TINY_V

TEXT = np.random.default_rng(1).integers(0, V, 20 * T)


@pytest.mark.slow
def test_each_target_is_scored_after_its_last_tokens_alone(monkeypatch):
    """Against one call for each window; batches of 7 leave a rest."""
    monkeypatch.setattr(context, "TOKENS_PER_BATCH", 7 * TINY_T)
    model, params = TINY["gpt2"], init("gpt2", 3.0)
    apply = jax.jit(model.apply)
    text = np.random.default_rng(0).integers(0, TINY_V, 40)
    found = context.measure(model, params, text, TINY_T)
    assert found["lengths"] == [1, 2, 4, TINY_T]
    nats = np.array(
        [
            [
                optax.softmax_cross_entropy_with_integer_labels(
                    apply({"params": params}, text[None, place - length : place])[0, -1],
                    text[place],
                )
                for place in range(TINY_T, 40)
            ]
            for length in found["lengths"]
        ]
    )
    assert found["num_targets"] == 40 - TINY_T
    np.testing.assert_allclose(found["loss"], nats.mean(1), rtol=1e-5)
    paired = nats - nats[-1]
    np.testing.assert_allclose(found["difference"], paired.mean(1), atol=1e-6)
    errors = paired.std(axis=1, ddof=1) / nats.shape[1] ** 0.5
    np.testing.assert_allclose(found["difference_error"], errors, atol=1e-6)


def test_a_bigram_uses_one_token():
    found = context.measure(TINY["bigram"], init("bigram"), TEXT % TINY_V, 8)
    assert found["difference"] == pytest.approx([0, 0, 0, 0], abs=1e-6)


@pytest.mark.slow
def test_a_head_on_the_token_before_uses_two():
    model, params = circuits.copies(*circuits.previous_token())
    # The next token is the one before.
    text = np.resize([3, 7], 400)
    found = context.measure(model, params, text, T)
    after = dict(zip(found["lengths"], found["loss"], strict=True))
    expected = np.log(np.exp(5) + V - 1)
    assert after[1] == pytest.approx(expected, rel=1e-5)  # It sees the token itself alone.
    for length in (2, 4, 8, 16, T):
        assert after[length] == pytest.approx(expected - 5, rel=1e-3)


def test_parts_of_a_window_sum_to_the_loss():
    """Weighted by their lengths, over whole windows; their ends are powers of two."""
    nats = np.random.default_rng(0).random(10 * 12 + 5)
    parts = context.by_position(nats, 12)
    assert [(part["first"], part["last"]) for part in parts] == [
        (1, 1),
        (2, 2),
        (3, 4),
        (5, 8),
        (9, 12),
    ]
    total = sum(part["loss"] * (part["last"] - part["first"] + 1) for part in parts)
    assert total / 12 == pytest.approx(nats[:120].mean())
    first = nats[:120:12]
    assert parts[0]["loss_error"] == pytest.approx(first.std(ddof=1) / 10**0.5)


@pytest.mark.parametrize(
    ("length", "lengths"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])]
)
def test_lengths_are_powers_of_two_and_the_whole_context(length, lengths):
    assert context.context_lengths(length) == lengths
