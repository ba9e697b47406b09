"""Through the layers: the lens, the sum of parts and patching, by their identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inspection import interception, layers
from tests import circuits
from tests.stages import ATTENTIVE, CHANGED, TINY, T, V, init

ALL = TINY | CHANGED
WITH_BLOCKS = [name for name in ALL if hasattr(ALL[name], "num_layers")]
TOKENS_BT, OTHER_BT = np.random.default_rng(0).integers(0, V, (2, 2, T))


def logits_of(model, params, tokens_BT):
    return jax.jit(model.apply)({"params": params}, tokens_BT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer_decoder", "gpt2", "rms_norm", "soft_cap", "untied"])
def test_the_lens_at_the_end_equals_the_logits(name):
    model, params = ALL[name], init(name, 3.0)
    found = jax.jit(layers.lens, static_argnums=0)(model, params, TOKENS_BT)
    paths = layers.blocks(model, params)
    assert len(found) == len(layers.point_names(paths)) == 5
    np.testing.assert_allclose(found[-1], logits_of(model, params, TOKENS_BT), atol=1e-5)
    # At the beginning, it is what the model says without its blocks.
    quiet = {name: jax.tree.map(jnp.zeros_like, params[name]) for name in paths}
    expected = logits_of(model, params | quiet, TOKENS_BT)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert jnp.abs(found[0] - found[-1]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*ATTENTIVE, *CHANGED) if name != "soft_cap"])
def test_the_parts_sum_to_the_logit(name):
    model, params = ALL[name], init(name, 3.0)
    # Biases and scales are not 0 and 1 in a trained model.
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params
    )
    directions_BTV = jax.nn.one_hot(OTHER_BT, V)
    found = layers.attribution(model, params, TOKENS_BT, directions_BTV)
    logits_BTV = logits_of(model, params, TOKENS_BT)
    expected = np.take_along_axis(np.asarray(logits_BTV), OTHER_BT[..., None], -1)[..., 0]
    np.testing.assert_allclose(found.logit_BT, expected, atol=1e-4)
    np.testing.assert_allclose(found.terms_CBT.sum(0), expected, atol=1e-3)
    assert len(found.terms_CBT) == len(layers.part_names(model, params))


def test_a_part_is_what_its_removal_from_the_last_norm_s_input_takes_away():
    """With the mean and the variance held, by the definition of LayerNorm."""
    model, params = TINY["gpt2"], init("gpt2", 3.0)
    seen = jax.jit(interception.run, static_argnums=0)(model, params, TOKENS_BT)
    x, part = seen.inputs["final_norm"], seen.outputs["block_1/mlp"]
    deviation = jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    scale = params["final_norm"]["scale"][None, None]
    moved = (part - part.mean(-1, keepdims=True)) / deviation * scale
    expected = jnp.einsum("BTD,VD->BTV", moved, params["embed"]["token"]["embedding"])[..., 3]
    directions_BTV = jnp.broadcast_to(jax.nn.one_hot(3, V), (2, T, V))
    found = layers.attribution(model, params, TOKENS_BT, directions_BTV)
    place = layers.part_names(model, params).index("MLP 2")
    np.testing.assert_allclose(found.terms_CBT[place], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ATTENTIVE, "alibi", "grouped_queries"])
def test_patching(name):
    """By itself nothing changes; one whole point, or without blocks the embeddings, is clean."""
    model, params = ALL[name], init(name, 3.0)
    clean, other = TOKENS_BT[0], OTHER_BT[0]
    num_points = len(layers.stream_sites(model, params))
    found = interception.attentions(model, params)
    shape = len(found), found[0].num_heads
    # Nothing, each point whole, and all heads.
    num = num_points + 2
    stream_NPT = np.zeros((num, num_points, T))
    stream_NPT[np.arange(1, num - 1), np.arange(num_points)] = 1
    heads_NLH = np.zeros((num, *shape))
    heads_NLH[-1] = 1
    switches = jnp.asarray(stream_NPT), jnp.asarray(heads_NLH)
    expected = logits_of(model, params, np.stack([clean, other]))[:, -1]
    found = layers.patched(model, params, clean, other, *switches)
    np.testing.assert_allclose(found[0], expected[1], atol=1e-5)
    for patched in found[1:-1]:
        np.testing.assert_allclose(patched, expected[0], atol=1e-5)
    assert jnp.abs(expected[0] - expected[1]).max() > 0.01
    if hasattr(model, "num_layers"):  # The embeddings reach the logits past the heads.
        assert jnp.abs(found[-1] - expected[0]).max() > 0.01
    else:
        np.testing.assert_allclose(found[-1], expected[0], atol=1e-5)
    of_itself = layers.patched(model, params, clean, clean, *switches)
    np.testing.assert_allclose(of_itself, jnp.broadcast_to(expected[:1], (num, V)), atol=1e-5)


@pytest.mark.slow
def test_a_pair_differs_where_a_known_head_looks():
    """A head copies the token before the last: of a text of period 3, the next one."""
    model, params = circuits.copies(*circuits.previous_token(distance=2))
    text = np.concatenate([np.tile([3 * i, 3 * i + 1, 3 * i + 2], 40) for i in range(8)])
    pair = layers.choose_pair(model, params, text, 16)
    assert list(np.flatnonzero(pair.clean != pair.other)) == [13]
    assert pair.target == pair.clean[13]
    found = layers.measure_patches(model, params, pair)
    right = 5 - np.log(np.exp(5) + circuits.V - 1)
    assert found["clean"] == pytest.approx(right, rel=1e-4)
    assert found["other"] == pytest.approx(right - 5, rel=1e-4)
    assert np.shape(found["stream"]) == (1, 16)
    restored = np.array(found["stream"][0]) - found["other"]
    assert restored == pytest.approx([0] * 13 + [5, 0, 0], abs=1e-3)
    assert found["heads"] == [[pytest.approx(right, abs=1e-3)]]


@pytest.mark.slow
def test_measured_points_and_parts_are_those_of_the_model():
    model, params = TINY["gpt2"], init("gpt2", 3.0)
    text = np.random.default_rng(3).integers(0, V, 61)
    texts = text[np.arange(0, 60, 5)[:, None] + np.arange(T + 1)]
    logits = np.asarray(logits_of(model, params, texts[:, :-1]), np.float64)
    right = np.take_along_axis(logits, texts[:, 1:, None], -1)[..., 0]
    logs = right - np.logaddexp.reduce(logits, -1)
    shown = text[: T + 1]
    found = layers.measure_lens(model, params, text, T, shown)
    assert found["loss"][-1] == pytest.approx(-logs.mean(), rel=1e-5)
    assert found["top"][-1] == logits[0].argmax(-1).tolist()
    assert found["p_right"][-1] == pytest.approx(np.exp(logs[0]), abs=1e-3)
    parts = layers.measure_parts(model, params, text, T, shown)
    above = right - logits.mean(-1)
    assert sum(parts["mean"]) == pytest.approx(above.mean(), abs=1e-4)
    assert np.sum(parts["terms"], axis=0) == pytest.approx(above[0], abs=1e-2)
    assert len(parts["names"]) == len(parts["mean"]) == len(parts["terms"]) == 2 + 2 * 4 + 1


@pytest.mark.slow
def test_parts_of_a_soft_capped_logit_are_left_out():
    model, params = CHANGED["soft_cap"], init("soft_cap", 30.0)
    text = np.random.default_rng(3).integers(0, V, 61)
    assert layers.measure_parts(model, params, text, T, text[: T + 1]) is None
