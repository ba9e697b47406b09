"""Yardstick: the windows of an exact evaluation, closed forms, and a bound on what is compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inference import metrics
from input_pipeline import batches
from inspection import yardstick
from inspection.ngrams import NGrams
from inspection.scores import Scores
from inspection.subject import Subject
from tests.stages import TINY, V, init

C = 8
# Chains: a token says much about the next one.
TRAIN = (np.random.default_rng(0).zipf(2, 2000).cumsum() % V).astype(np.int32)
TOKENS = (np.random.default_rng(1).zipf(2, 203).cumsum() % V).astype(np.int32)
GRAMS = NGrams(TRAIN, V)


class Tokenizer:
    vocab_size = V


def measured(params, nats):
    subject = Subject("x", TINY["bigram"], params, Tokenizer(), C, TRAIN, TOKENS)
    return yardstick.measure(subject, Scores(nats, np.zeros(len(nats), bool)))


def test_n_grams_see_what_a_model_sees_in_an_exact_evaluation():
    """Each of its windows scored as a text of its own."""
    alone = [
        GRAMS.nats(window, C)[:, mask]
        for windows_CBT, mask_CBT in batches.eval_windows(
            TOKENS, batch_size=3, context_length=C, batches_per_chunk=2
        )
        for window, mask in zip(
            windows_CBT.reshape(-1, C + 1), mask_CBT.reshape(-1, C), strict=True
        )
    ]
    np.testing.assert_allclose(GRAMS.nats(TOKENS, C), np.concatenate(alone, axis=1), rtol=1e-12)


def test_a_loss_between_two_n_grams_is_between_their_orders():
    one, two, *_ = GRAMS.nats(TOKENS, C)
    for share in (0.25, 0.5):
        found = measured(init("bigram"), (1 - share) * one + share * two)
        assert found["losses"][:2] == pytest.approx([one.mean(), two.mean()])
        assert found["as_good_as"] == pytest.approx(1 + share)
    assert measured(init("bigram"), one + 1)["as_good_as"] is None


@pytest.mark.parametrize(("most", "num"), [(10_000, 200), (2 * C, 2 * C), (5, 5)])
def test_distances_of_a_bigram_by_hand(monkeypatch, most, num):
    """Of as many targets as are wanted, of the rest of a window as well as of whole ones."""
    monkeypatch.setattr(yardstick, "NUM_TARGETS", most)
    params = init("bigram", 3.0)
    logs_VV = np.asarray(jax.nn.log_softmax(params["next_token"]["embedding"]), float)
    found = measured(params, np.ones(len(TOKENS) - 1))
    assert found["num_distances"] == num
    last = len(TOKENS) // C - 1  # Of the whole windows.
    chosen = {
        200: np.arange(200),
        2 * C: np.r_[0:C, last * C : (last + 1) * C],
        5: np.array([0, 1, 3, 5, 7]),  # linspace(0, 7, 5), rounded down.
    }[num]
    logs_NV = logs_VV[TOKENS[chosen]]
    for distance, q_NV in zip(
        found["distances"], GRAMS.distributions(TOKENS, C, chosen), strict=True
    ):
        expected = (np.exp(logs_NV) * (logs_NV - np.log(q_NV))).sum(-1).mean()
        assert distance == pytest.approx(expected, abs=1e-5)
    assert found["nearest"] == 1 + found["distances"].index(min(found["distances"]))


def test_a_uniform_model_has_a_closed_form():
    """Its distance from order 1, which is the same everywhere: the mean of -ln q, less ln V."""
    params = {"next_token": {"embedding": jnp.zeros((V, V))}}
    nats = metrics.next_token_nats(jnp.zeros((len(TOKENS) - 1, V)), jnp.asarray(TOKENS[1:]))
    found = measured(params, np.asarray(nats))
    counts = np.bincount(TRAIN, minlength=V)
    types = (counts > 0).sum()
    q_V = (counts + types / V) / (len(TRAIN) + types)
    assert found["distances"][0] == pytest.approx(-np.log(q_V).mean() - np.log(V), abs=1e-5)
