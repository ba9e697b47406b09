"""Heads: circuits set by hand score as they must; the cost of a head has a closed form."""

import base64

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inspection import heads, windows
from tests import circuits
from tests.circuits import T, V

# Tokens enough for a few windows, each of them often.
TEXT = np.random.default_rng(1).integers(0, V, 8 * T)


def measured(model, params):
    return heads.measure(model, params, TEXT, T)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("circuit", "score"),
    [(circuits.previous_token, "previous"), (circuits.same_token, "same")],
)
def test_a_head_set_by_hand_scores_above_99_percent(circuit, score):
    found = measured(*circuit())
    assert found["heads"][0][score] > 0.99
    others = {"previous", "same", "induction"} - {score}
    assert all(found["heads"][0][other] < 0.2 for other in others)


@pytest.mark.slow
def test_an_induction_circuit_needs_both_heads():
    model, params = circuits.induction()
    first, second = measured(model, params)["heads"]
    assert first["previous"] > 0.99 and first["induction"] < 0.2
    assert second["induction"] > 0.95
    _, alone = measured(model, circuits.without_first_head(params))["heads"]
    assert alone["induction"] < 0.2


def test_uniform_attention_has_the_entropy_and_the_masses_of_chance():
    model, params = circuits.one_layer()
    found = measured(model, params)
    (head,) = found["heads"]
    expected = np.log(np.arange(1, T + 1)).mean()
    assert found["uniform_entropy"] == pytest.approx(expected)
    assert head["entropy"] == pytest.approx(expected, rel=1e-5)
    for name, chance in found["chance"].items():
        assert head[name] == pytest.approx(chance, rel=1e-5)
    distances = [np.mean([1 / (t + 1) for t in range(T // 2, T)])] * (T // 2 + 1)
    assert head["spectrum"] == pytest.approx(distances, abs=1e-4)


@pytest.mark.slow
def test_masses_are_those_of_a_loop():
    """Of weights drawn at random, over a text with repetitions."""
    rng = np.random.default_rng(0)
    tokens, size = rng.integers(0, 4, 12), 12
    weights = np.tril(rng.random((1, 1, size, size)))
    weights /= weights.sum(-1, keepdims=True)
    repeated = np.tile(rng.integers(0, 4, 6), 2)
    found = heads.scores(*(jnp.asarray(x) for x in (weights, weights, tokens, repeated)))
    keys = [
        [[t - 1] if t else [] for t in range(size)],
        [[s for s in range(t) if tokens[s] == tokens[t]] for t in range(size)],
        [
            [s for s in range(1, t + 1) if repeated[s - 1] == repeated[t]] if t >= 6 else []
            for t in range(size)
        ],
    ]
    for kind, of_queries in enumerate(keys):
        mass = sum(weights[0, 0, t, s] for t, each in enumerate(of_queries) for s in each)
        chance = sum(len(each) / (t + 1) for t, each in enumerate(of_queries))
        assert found.masses_MLH[kind, 0, 0] == pytest.approx(mass, rel=1e-5)
        assert found.uniform_M[kind] == pytest.approx(chance, rel=1e-5)
        assert found.queries_M[kind] == sum(map(bool, of_queries))


def test_a_head_costs_what_its_mean_costs():
    """The logits of stage 2 are linear in its head: without it they are those of the mean."""
    model, params = circuits.previous_token()
    kernel = jnp.zeros((V + T, V + T)).at[:V, :V].set(jnp.eye(V))
    params["attention"]["value"]["kernel"] = kernel
    params["logits"]["kernel"] = jax.random.normal(jax.random.key(0), (V + T, V))
    texts = windows.spread(TEXT, T)
    inputs, targets = texts[:, :-1], texts[:, 1:]
    before = np.concatenate([inputs[:, :1], inputs[:, :-1]], axis=1)
    logits_of = np.asarray(params["logits"]["kernel"])[before]
    mean = np.broadcast_to(logits_of.mean((0, 1)), logits_of.shape)
    with_head, without = (
        -np.take_along_axis(np.asarray(jax.nn.log_softmax(x)), targets[..., None], -1).mean((1, 2))
        for x in (logits_of, mean)
    )
    (head,) = measured(model, params)["heads"]
    cost = without - with_head
    assert head["cost"] == pytest.approx(cost.mean(), abs=1e-5)
    assert head["cost_error"] == pytest.approx(cost.std(ddof=1) / len(cost) ** 0.5, abs=1e-5)


@pytest.mark.slow
def test_a_head_that_writes_nothing_costs_nothing():
    assert [head["cost"] for head in measured(*circuits.induction())["heads"]] == [0, 0]


def test_shown_weights_are_bytes_of_the_past():
    ((encoded,),) = heads.shown_weights(*circuits.one_layer(), TEXT[:5])
    rows = [[round(255 / (t + 1))] * (t + 1) for t in range(5)]
    assert list(base64.b64decode(encoded)) == [value for row in rows for value in row]


def test_a_model_without_attention_has_no_heads():
    bigram = circuits.models.Bigram(V)
    assert heads.measure(bigram, circuits.zeros(bigram), TEXT, T) is None


@pytest.mark.slow
def test_a_larger_model_is_measured_on_fewer_windows_and_too_large_a_one_not(monkeypatch):
    model, params = circuits.induction()
    num = len(windows.spread(TEXT, T))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    of_window = 2 * num_params * T * 3  # With both heads, and without each.
    rows = {}
    for most in (1, 3, num, 10 * num):
        monkeypatch.setattr(heads, "MAX_FLOPS", most * of_window)
        assert len(heads.affordable(windows.spread(TEXT, T), params, 2)) == (most > 1) * min(
            most, num
        )
        rows[most] = measured(model, params)["heads"]
    assert [row["cost"] for row in rows[1]] == [None, None]
    assert [row["induction"] for row in rows[1]] == [row["induction"] for row in rows[num]]
    assert [row["cost"] for row in rows[3]] == [0, 0]
    assert rows[10 * num] == rows[num]
