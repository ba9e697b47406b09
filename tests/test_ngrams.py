"""n-grams: by hand, against counting in plain Python, and on Tiny Shakespeare."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from experiments import default
from input_pipeline import corpus
from inspection.ngrams import MAX_ORDER, NGrams
from inspection.yardstick import as_good_as


def by_counting(train, tokens, context_length, vocab_size, order):
    """The distributions of one order, token by token in dictionaries."""
    after = defaultdict(Counter)
    for length in range(order):
        for i in range(length, len(train)):
            after[tuple(train[i - length : i])][train[i]] += 1

    def p(context):
        counts, shorter = after.get(context), 1 / vocab_size
        if context:
            shorter = p(context[1:])
        if not counts:
            return np.broadcast_to(shorter, vocab_size)
        found = np.array([counts[token] for token in range(vocab_size)], float)
        return (found + len(counts) * shorter) / (found.sum() + len(counts))

    rows = []
    for i in range(len(tokens) - 1):
        length = min(order - 1, i % context_length + 1)
        rows.append(p(tuple(tokens[i + 1 - length : i + 1])))
    return np.stack(rows)


@pytest.mark.parametrize("context_length", [3, 1000])
def test_they_predict_as_counting_does(context_length):
    V = 4
    rng = np.random.default_rng(0)
    # Token 4 of the held-out text is not in the training text.
    train, tokens = rng.integers(0, V, 300), rng.integers(0, V + 1, 60)
    grams = NGrams(train, V + 1)
    chosen = np.arange(len(tokens) - 1)
    nats = grams.nats(tokens, context_length)
    found = grams.distributions(tokens, context_length, chosen)
    for order, p_NV in enumerate(found, start=1):
        expected = by_counting(train.tolist(), tokens.tolist(), context_length, V + 1, order)
        np.testing.assert_allclose(p_NV, expected, rtol=1e-9)
        np.testing.assert_allclose(p_NV.sum(-1), 1, rtol=1e-9)
        of_targets = expected[chosen, tokens[1:]]
        np.testing.assert_allclose(nats[order - 1], -np.log(of_targets), rtol=1e-9)
    assert order == MAX_ORDER


def test_the_first_order_by_hand():
    """Of "aab" and three letters: (2 + 2/3) / 5 and (1 + 2/3) / 5; 2/3 / 5 for the unseen one."""
    nats = NGrams(np.array([0, 0, 1]), 3).nats(np.array([2, 0, 1, 2]), 10)[0]
    np.testing.assert_allclose(np.exp(-nats), [8 / 15, 5 / 15, 2 / 15])


def test_a_text_shorter_than_the_longest_context():
    nats = NGrams(np.array([0, 1]), 2).nats(np.array([0, 1, 0]), 10)
    assert nats.shape == (2, 2) and np.isfinite(nats).all()


def test_a_large_vocabulary_does_not_overflow():
    """Keys would need 50,257 to the power of 8."""
    V = 50_257
    train = np.random.default_rng(0).integers(0, V, 2000).astype(np.uint16)
    train = np.concatenate([train, train])
    nats = NGrams(train, V).nats(train, 64)
    # The text repeats: what follows two tokens or more was seen after them.
    assert np.exp(-nats[3]).mean() > 0.5
    (p_NV, *_) = NGrams(train, V).distributions(train, 64, np.array([0, 5]))
    np.testing.assert_allclose(p_NV.sum(-1), 1)


def test_their_losses_on_tiny_shakespeare():
    """With all of the split before a token; the figures are from another implementation."""
    data = corpus.load(default.get_config().data)
    nats = NGrams(data.train, 65).nats(data.val, len(data.val))
    expected = [3.347, 2.486, 2.049, 1.774, 1.669, 1.698]
    np.testing.assert_allclose(nats.mean(1)[:6], expected, atol=5e-4)


def test_as_good_as_is_between_two_orders():
    losses = [3.0, 2.0, 1.5, 1.6, 1.4]
    assert as_good_as(2.0, losses) == 2
    assert as_good_as(2.75, losses) == pytest.approx(1.25)
    assert as_good_as(1.45, losses) == pytest.approx(4.75)
    assert as_good_as(3.1, losses) is as_good_as(1.39, losses) is None
    # Orders after the best one have learnt the text by heart.
    assert as_good_as(1.55, [3.0, 1.5, 1.6]) == pytest.approx(1 + 1.45 / 1.5)
    assert math.isclose(as_good_as(1.5, [3.0, 1.5, 1.6]), 2)
