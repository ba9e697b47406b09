"""Tests of evaluation: against a slow reference, for contexts that do not divide the split."""

import json
import math

import jax
import numpy as np
import pytest

from inference import metrics
from inference.evaluation import evaluate
from runtime.devices import data_mesh
from tests.stages import TINY, T, V, init

TOKENS = np.random.default_rng(0).integers(0, V, 83).astype(np.uint8)
TOKEN_BYTES = np.arange(1, V + 1, dtype=np.int32)


def reference(model, params, context_length):
    """Returns the nats of every token after the first, each given its window up to there."""
    nats = 0.0
    full = jax.jit(model.apply)
    for n in range(1, len(TOKENS)):
        start = (n - 1) // context_length * context_length
        window_BT = np.zeros((1, context_length), np.int32)
        window_BT[0, : n - start] = TOKENS[start:n]
        logits = full({"params": params}, window_BT)[0, n - start - 1]
        nats -= float(jax.nn.log_softmax(logits)[TOKENS[n]])
    return nats


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bigram", "gpt2"])
@pytest.mark.parametrize(("context_length", "batch_size"), [(5, 3), (4, 64), (1, 7)])
def test_evaluation_equals_a_slow_reference(name, context_length, batch_size):
    model, params = TINY[name], init(name, scale=3.0)
    assert (len(TOKENS) - 1) % context_length or context_length == 1
    score = evaluate(
        model,
        params,
        TOKENS,
        TOKEN_BYTES,
        batch_size=batch_size,
        context_length=context_length,
        mesh=data_mesh(batch_size),
    )
    nats = reference(model, params, context_length)
    num_bytes = TOKEN_BYTES[TOKENS[1:]].sum()
    assert score["loss"] == pytest.approx(nats / (len(TOKENS) - 1), abs=1e-5)
    assert score["perplexity"] == pytest.approx(math.exp(nats / (len(TOKENS) - 1)), rel=1e-5)
    assert score["bits_per_byte"] == pytest.approx(nats / num_bytes / math.log(2), abs=1e-5)


def test_a_uniform_model_scores_ln_v():
    params = {"next_token": {"embedding": np.zeros((V, V), np.float32)}}
    score = evaluate(
        TINY["bigram"],
        params,
        TOKENS,
        np.ones(V, np.int32),
        batch_size=2,
        context_length=T,
        mesh=data_mesh(2),
    )
    assert score["loss"] == pytest.approx(math.log(V), abs=1e-6)
    assert score["perplexity"] == pytest.approx(V, rel=1e-5)
    assert score["bits_per_byte"] == pytest.approx(math.log2(V), abs=1e-5)


def test_a_diverged_score_is_infinite_and_not_an_error():
    assert metrics.score(1e6, 1, 1)["perplexity"] == math.inf
    assert json.dumps(metrics.score(math.nan, 1, 1))
