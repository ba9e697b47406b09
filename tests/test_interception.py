"""Interception: training compiles the same programs; edits equal changed parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import models.gpt2_variants
import models.self_attention
from inspection import interception
from models.layers import reference
from runtime.devices import data_mesh
from tests.stages import CHANGED, TINY, T, V, init
from training.schedule import Schedule
from training.step import draw_state, initial_metrics, train_steps

# Those of GPT-2's changes that are about attention.
VARIANTS = ("rotary", "alibi", "grouped_queries", "query_key_norm")
ALL = TINY | {name: CHANGED[name] for name in VARIANTS}
WITH_PROJECTION = [name for name in ALL if name not in ("bigram", "self_attention")]
TOKENS_BT = np.random.default_rng(0).integers(0, V, (2, T))
LONG = 130  # Tokens enough for several blocks of queries.


def run(model, **edits):
    """Jitted `interception.run` on TOKENS_BT, as a function of the parameters."""
    return jax.jit(lambda params: interception.run(model, params, TOKENS_BT, **edits))


def lowered_steps(model):
    """The lowered text of training steps on windows of its whole context."""
    tx = optax.sgd(0.1)
    shapes = jax.eval_shape(partial(draw_state, model, tx), np.uint32(0))
    state = shapes.replace(apply_fn=model.apply, tx=tx)
    batches_KBT = np.zeros((2, 1, LONG + 1), np.int32)
    # A function of its own: jit would find the trace of another call.
    steps = jax.jit(partial(train_steps.__wrapped__))
    metrics = initial_metrics(data_mesh(1))
    return steps.lower(state, metrics, batches_KBT, 0, 2, np.uint32(0), 0, Schedule()).as_text()


@pytest.mark.slow
@pytest.mark.parametrize("is_reference", [False, True])
@pytest.mark.parametrize("name", [*TINY, "alibi"])
def test_training_compiles_the_same_program_without_the_seam(name, is_reference, monkeypatch):
    sizes = {} if name == "bigram" else {"context_length": LONG}
    model = ALL[name].clone(**sizes)
    texts = []
    for _ in range(2):
        if is_reference:
            with reference.forced():
                texts.append(lowered_steps(model))
        else:
            texts.append(lowered_steps(model))
        for module in (models.self_attention, models.gpt2_variants):
            monkeypatch.setattr(module, "expose", lambda weights: weights)
    assert texts[0] == texts[1]
    assert "while" in texts[0] and len(texts[0]) > 1000


@pytest.mark.parametrize("name", ALL)
def test_reading_changes_nothing(name):
    """Neither the logits nor the tree of parameters, which has no seam."""
    model, params = ALL[name], init(name, 3.0)
    with reference.forced():
        expected = jax.jit(model.apply)({"params": params}, TOKENS_BT)
        fresh = jax.eval_shape(model.init, jax.random.key(0), TOKENS_BT)["params"]
    # A program that gives more numbers may round otherwise.
    np.testing.assert_allclose(run(model)(params).logits, expected, rtol=1e-5, atol=1e-5)
    assert jax.tree.structure(fresh) == jax.tree.structure(params)


@pytest.mark.parametrize("name", [name for name in ALL if name != "bigram"])
def test_weights_are_read_at_every_attention(name):
    """Rows over the past that sum to 1, and the heads' outputs of the sizes that they name."""
    model, params = ALL[name], init(name, 3.0)
    seen = run(model)(params)
    found = interception.attentions(model, params)
    assert len(found) == getattr(model, "num_layers", 1)
    for attention in found:
        assert attention.num_heads == getattr(model, "num_heads", 1)
        weights = seen.outputs[attention.weights].reshape(2, -1, T, T)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
        assert not np.triu(weights, 1).any()
        assert attention.heads(seen).shape[:3] == (2, T, attention.num_heads)


def test_a_model_without_attention_has_none():
    assert interception.attentions(TINY["bigram"], init("bigram")) == []


@pytest.mark.parametrize("name", WITH_PROJECTION)
def test_a_head_switched_off_equals_its_kernel_rows_zeroed(name):
    model, params = ALL[name], init(name, 3.0)
    attention = interception.attentions(model, params)[-1]

    @jax.jit
    def logits(params, switches_H):
        edit = interception.head_edits(
            [attention], lambda _, y_BTHK: y_BTHK * switches_H[None, None, :, None]
        )
        return interception.run(model, params, TOKENS_BT, **edit).logits

    def zeroed(path, leaf):
        keys = [key.key for key in path]
        if keys != [*attention.path.split("/"), "out", "kernel"]:
            return leaf
        return leaf.reshape(3, 4, 12).at[1].set(0).reshape(12, 12)

    switched = logits(params, jnp.array([1.0, 0, 1]))
    expected = logits(jax.tree.map_with_path(zeroed, params), jnp.ones(3))
    np.testing.assert_allclose(switched, expected, rtol=0, atol=5e-7)
    assert jnp.abs(switched - logits(params, jnp.ones(3))).max() > 1e-3


@pytest.mark.parametrize("name", ["self_attention", "gpt2", "alibi", "grouped_queries"])
def test_weights_are_replaced(name):
    """By their own values nothing changes; by the identity, each value stays where it was."""
    model, params = ALL[name], init(name, 3.0)
    attention, *_ = interception.attentions(model, params)
    seen = run(model)(params)
    same = {attention.weights: lambda _: seen.outputs[attention.weights]}
    unchanged = run(model, outputs=same)(params).logits
    np.testing.assert_allclose(unchanged, seen.logits, rtol=1e-5, atol=1e-5)
    identity = {attention.weights: lambda w: jnp.broadcast_to(jnp.eye(T), w.shape)}
    edited = run(model, outputs=identity)(params)
    value = seen.outputs[f"{attention.path}/value"]
    heads = attention.heads(edited)
    value = value.reshape(2, T, -1, heads.shape[-1])
    value = jnp.repeat(value, heads.shape[2] // value.shape[2], axis=2)
    np.testing.assert_allclose(heads, value, rtol=1e-6)


def test_a_path_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match="no sub-module block_9"):
        interception.run(TINY["gpt2"], init("gpt2"), TOKENS_BT, inputs={"block_9/out": lambda x: x})
