"""Tables of a model, by hand and by counting."""

from collections import Counter
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inspection import tables
from inspection.subject import Subject
from models import GPT2, SelfAttentionModel
from tests.stages import CHANGED, TINY, V, init

TRAIN = np.random.default_rng(0).zipf(1.5, 4000) % V


def subject_of(model, params, train=TRAIN):
    train = np.asarray(train, np.int32)
    return Subject("x", model, params, Letters(), 8, train, train[:100])


class Letters:
    """A token for each letter."""

    vocab_size = V

    @staticmethod
    def decode(tokens):
        return "".join(chr(ord("a") + token) for token in tokens)


def test_what_follows_by_counting():
    counts = Counter(zip(TRAIN[:-1].tolist(), TRAIN[1:].tolist(), strict=True))
    totals = Counter(TRAIN[:-1].tolist())
    model, params = TINY["bigram"], init("bigram", 3.0)
    table_VV = np.asarray(params["next_token"]["embedding"], float)
    p_VV = np.exp(table_VV) / np.exp(table_VV).sum(-1, keepdims=True)
    chosen = tables.most_frequent(TRAIN, 5)
    assert chosen.tolist() == [token for token, _ in Counter(TRAIN.tolist()).most_common(5)]
    found = tables.following(subject_of(model, params), chosen)
    np.testing.assert_allclose(found["model"], p_VV[chosen][:, chosen], atol=6e-4)
    expected = [[counts[(one, other)] / totals[one] for other in chosen] for one in chosen.tolist()]
    np.testing.assert_allclose(found["counts"], expected, atol=6e-4)
    distance = sum(
        count / (len(TRAIN) - 1) * np.log(count / totals[one] / p_VV[one, other])
        for (one, other), count in counts.items()
    )
    assert found["distance"] == pytest.approx(distance, rel=1e-4)


def test_a_table_of_counts_has_no_distance_from_them():
    counts = np.full((V, V), 1e-9)
    np.add.at(counts, (TRAIN[:-1], TRAIN[1:]), 1)
    params = {"next_token": {"embedding": jnp.log(counts / counts.sum(-1, keepdims=True))}}
    found = tables.following(subject_of(TINY["bigram"], params), np.arange(3))
    assert found["distance"] == pytest.approx(0, abs=1e-5)


def test_a_token_that_only_ends_the_text_has_nothing_after_it():
    train = [0, 0, 2, 0, 1]
    found = tables.measure(subject_of(TINY["bigram"], init("bigram"), train), None)
    assert found["pieces"] == ["a", "c"]
    np.testing.assert_allclose(found["following"]["counts"], [[1 / 3, 1 / 3], [1, 0]], atol=6e-4)


def test_of_a_large_vocabulary_the_most_frequent_tokens_are_compared(monkeypatch):
    """The distance over three tokens, by counting."""
    monkeypatch.setattr(tables, "NUM_NUMBERS", 3 * V + V // 2)
    params = init("bigram", 3.0)
    table_VV = np.asarray(params["next_token"]["embedding"], float)
    logs_VV = table_VV - np.log(np.exp(table_VV).sum(-1, keepdims=True))
    befores = [token for token, _ in Counter(TRAIN[:-1].tolist()).most_common(3)]
    pairs = [pair for pair in pairwise(TRAIN.tolist()) if pair[0] in befores]
    totals = Counter(one for one, _ in pairs)
    distance = sum(
        count / len(pairs) * (np.log(count / totals[one]) - logs_VV[one, other])
        for (one, other), count in Counter(pairs).items()
    )
    found = tables.following(subject_of(TINY["bigram"], params), np.array(befores[:2]))
    assert found["distance"] == pytest.approx(distance, rel=1e-4)
    assert found["share"] == pytest.approx(len(pairs) / (len(TRAIN) - 1))


def test_a_context_as_long_as_the_vocabulary_is_large():
    """Both tables have V rows: those of tokens are not those of positions."""
    model = GPT2(V, V, 12, 3, 1, dropout_rate=0.0, attention_dropout_rate=0.0)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    found = tables.measure(subject_of(model, params), None)
    chosen = tables.most_frequent(TRAIN[:-1], V)
    of = {name: np.asarray(table["embedding"]) for name, table in params["embed"].items()}
    assert found["tokens"] == tables.tokens_like(of["token"][chosen])
    assert found["positions"] == tables.positions_like(of["position"])


@pytest.mark.slow
def test_embeddings_of_one_number_have_a_map():
    model = SelfAttentionModel(V, 8, embed_dim=1)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    found = tables.measure(subject_of(model, params), None)["tokens"]
    assert [len(place) for place in found["map"]] == [2] * len(np.unique(TRAIN))
    assert all(y == 0 for _, y in found["map"]) and found["explained"] == pytest.approx(1)


def test_neighbours_and_map_by_hand():
    """Two bundles of directions, and lengths that do not count."""
    rows = np.array([[1, 0, 0], [5, 0.1, 0], [0, 1, 0.1], [0, 4, 0], [0, 2, -0.1]])
    found = tables.tokens_like(rows)
    nearest = [neighbours[0] for neighbours in found["neighbours"]]
    assert nearest[:3] == [1, 0, 3] and nearest[4] == 3
    assert all(i not in neighbours for i, neighbours in enumerate(found["neighbours"]))
    # Distances in the map are at most those between the rows, and nearly equal to them here.
    between = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    at = np.array(found["map"])
    in_map = np.linalg.norm(at[:, None] - at[None], axis=-1)
    np.testing.assert_allclose(in_map, between, atol=0.3)
    assert (in_map <= between + 1e-3).all()
    assert found["explained"] > 0.99


def test_similar_positions():
    angles = np.linspace(0, np.pi, 100)
    found = tables.positions_like(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert len(found["places"]) == tables.NUM_POSITIONS
    assert (found["places"][0], found["places"][-1]) == (1, 100)
    places = np.array(found["places"]) - 1
    expected = np.cos(angles[places][:, None] - angles[places][None])
    np.testing.assert_allclose(found["similarity"], expected, atol=6e-4)


@pytest.mark.parametrize("name", [*TINY, *CHANGED])
def test_every_model_has_the_tables_of_its_parameters(name):
    model, params = (TINY | CHANGED)[name], init(name)
    found = tables.measure(subject_of(model, params), None)
    assert found["tokens"] is not None
    has_positions = "position" in str(list(params.get("embed", {})))
    assert (found["positions"] is not None) == has_positions
    assert len(found["pieces"]) == len(np.unique(TRAIN))
