"""Growth: a snapshot is nearest to what it equals, and is scored as the model is."""

import jax
import numpy as np
import optax
import pytest

from input_pipeline.tokenizers import CharTokenizer
from inspection import growth, magnitudes, scores, windows
from inspection.subject import Subject
from reporting import inside_growth
from reporting.inside_parts import Inside
from tests.stages import TINY, T, V, init
from tests.vega_lite import assert_valid

# Some tokens are much more frequent than others.
TEXT = np.random.default_rng(0).choice(V, 600, p=np.arange(1, V + 1) / (V * (V + 1) / 2))
TRAIN, HELD_OUT = TEXT[:400], TEXT[400:]


def subject_of(name, params, **fields):
    tokenizer = CharTokenizer("\n &<abcdefg")
    return Subject(name, TINY[name], params, tokenizer, T, TRAIN, HELD_OUT, **fields)


def unigram():
    """Parameters of the bigram that are Witten and Bell's unigram, for every token before."""
    counts = np.bincount(TRAIN, minlength=V)
    p = (counts + (counts > 0).sum() / V) / (len(TRAIN) + (counts > 0).sum())
    return {"next_token": {"embedding": np.tile(np.log(p), (V, 1)).astype(np.float32)}}


@pytest.fixture(scope="module")
def measured():
    """Growth of a bigram that begins as the unigram, and ends as one of an earlier stage."""
    earlier = init("bigram", 2.0)
    other = subject_of("bigram", earlier)._replace(name="earlier")
    unlike = other._replace(name="other tokens", tokens=other.tokens[::-1])
    subject = subject_of(
        "bigram",
        earlier,
        snapshots=lambda: [(1, unigram()), (100, earlier)],
        others=[other, unlike],
    )
    return growth.measure(subject, scores.score(subject))


def test_a_snapshot_is_nearest_to_what_it_equals(measured):
    first, last = measured["steps"]
    assert measured["others"] == [*(f"{n}-gram" for n in range(1, growth.MAX_ORDER + 1)), "earlier"]
    assert (first["step"], first["nearest"]) == (1, "1-gram")
    assert (last["step"], last["nearest"]) == (100, "earlier")
    assert first["distances"]["1-gram"] == pytest.approx(0, abs=1e-6)
    assert last["distances"]["earlier"] == pytest.approx(0, abs=1e-6)
    assert first["distances"]["earlier"] > 0.1


def test_losses_by_kind_sum_to_the_loss(measured):
    logs = unigram()["next_token"]["embedding"][0][HELD_OUT[1:]]
    first = measured["steps"][0]
    assert first["loss"] == pytest.approx(-logs.mean(), rel=1e-5)
    assert sum(first["nats"]) == pytest.approx(-logs.sum(), rel=1e-5)
    assert sum(measured["counts"]) == len(HELD_OUT) - 1


@pytest.mark.slow
def test_heads_have_scores_at_each_snapshot():
    params = init("self_attention", 3.0)
    subject = subject_of("self_attention", params, snapshots=lambda: [(7, params)])
    (step,) = growth.measure(subject, None)["steps"]
    (head,) = step["heads"]
    assert sorted(head) == ["head", "induction", "layer", "previous", "same"]
    assert 0 < head["previous"] < 1


def test_without_snapshots_there_is_nothing():
    assert growth.measure(subject_of("bigram", unigram()), None) is None


def test_the_section_names_what_each_run_is_nearest_to(measured):
    insides = [
        Inside("none", 1, 1, "a text", 1.0, {"growth": None}),
        Inside("grown", 2, 100, "a text", 1.0, {"growth": measured}),
    ]
    section = inside_growth.section(insides)
    assert_valid(figure.spec for figure in section.figures)
    nearest, kinds, gradients, activations = section.figures
    assert [row[:2] + row[3:4] for row in nearest.rows] == [
        ["grown", "1", "1-gram"],
        ["grown", "100", "earlier"],
    ]
    assert len(kinds.rows) == len(gradients.rows) == len(activations.rows) == 2
    assert section.left_out[0].startswith("none is left out of growth")
    assert inside_growth.section(insides[:1]) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_magnitudes_are_those_of_a_step(name):
    """By autodiff of the reference loss, and the logits as the last output."""
    model, params = TINY[name], init(name, 3.0)
    found = magnitudes.measure(model, params, HELD_OUT, T)
    texts = windows.spread(HELD_OUT, T)[: magnitudes.BATCH]

    def loss(params):
        logits = model.apply({"params": params}, texts[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, texts[:, 1:]).mean()

    gradient = jax.grad(loss)(params)
    expected = {part: float(optax.tree.norm(tree)) for part, tree in gradient.items()}
    assert found["gradients"] == pytest.approx(expected, rel=2e-3)
    assert found["activations"].keys() == {*params, "logits"}
    logits = np.asarray(model.apply({"params": params}, texts[:, :-1]))
    size = np.sqrt(np.mean(logits**2))
    assert found["activations"]["logits"] == pytest.approx(size, rel=2e-3)
