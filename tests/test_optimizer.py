"""The schedule against its closed form, the decay mask, the clip, and one step of AdamW by hand."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from experiments import default
from runtime.errors import UserError
from tests.stages import init
from training import optimizer, schedule


def config(**changes):
    config = default.get_config().optimizer
    config.update(changes)
    return config


def schedule_of(num_steps, **changes):
    return schedule.build(config(**changes), num_steps)


def transformation(num_steps=10, width_multiplier=1.0, **changes):
    chosen = optimizer.build(config(**changes), width_multiplier)
    return chosen.with_rates(schedule_of(num_steps, **changes))


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine():
    changes = dict(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    rate = schedule_of(110, **changes)
    for step in range(111):
        if step <= 10:
            expected = step / 10
        else:
            expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        assert float(rate(step)) == pytest.approx(expected, abs=1e-6)


def test_a_run_shorter_than_its_warmup_still_peaks_and_ends():
    rate = schedule_of(10, learning_rate=1.0, warmup_steps=100)
    assert float(rate(5)) == pytest.approx(1.0)
    assert float(rate(10)) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["bigram", "self_attention", "transformer_decoder", "gpt2"])
def test_only_kernels_decay(name):
    mask = flatten_dict(optimizer.decay_mask(init(name)))
    for path, decays in mask.items():
        assert decays == (path[-1] == "kernel"), path
    assert any(mask.values()) == (name != "bigram")


@pytest.mark.slow
def test_one_update_is_adamw_of_the_clipped_gradient():
    """Loshchilov and Hutter (2019), algorithm 2, first step."""
    changes = dict(learning_rate=0.5, warmup_steps=0, weight_decay=0.1, grad_clip_norm=1.0)
    tx = transformation(**changes)
    params = {"kernel": jnp.array([2.0, -3.0]), "bias": jnp.array([1.0])}
    grads = {"kernel": jnp.array([30.0, 0.0]), "bias": jnp.array([40.0])}  # 50 long.
    updates, _ = tx.update(grads, tx.init(params), params)
    new = optax.apply_updates(params, updates)
    # The first step of Adam is the sign of the gradient; what decays loses lr * wd of itself.
    np.testing.assert_allclose(new["kernel"], [2 - 0.5 * (1 + 0.2), -3 + 0.5 * 0.3], rtol=1e-5)
    np.testing.assert_allclose(new["bias"], [1 - 0.5], rtol=1e-5)


@pytest.mark.parametrize(("clip", "length"), [(1.0, 1.0), (0.0, 50.0)])
def test_the_clip_bounds_the_gradient_and_0_does_not(clip, length):
    tx = transformation(grad_clip_norm=clip)
    params = {"kernel": jnp.array([30.0, 40.0])}
    _, state = tx.update(params, tx.init(params), params)
    mean = next(leaf for leaf in jax.tree.leaves(state) if getattr(leaf, "shape", ()) == (2,))
    np.testing.assert_allclose(jnp.linalg.norm(mean) / (1 - 0.9), length, rtol=1e-5)


def test_an_unknown_optimizer():
    with pytest.raises(
        UserError, match=r"config\.optimizer\.name='adam': expected one of adamw, mu"
    ):
        optimizer.build(config(name="adam"))


def test_the_linear_and_the_stable_schedule():
    changes = dict(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    linear = schedule_of(110, schedule="linear", **changes)
    stable = schedule_of(110, schedule="wsd", decay_share=0.25, **changes)
    for step in range(111):
        rise = min(step / 10, 1.0)
        line = 1.0 - 0.9 * max(step - 10, 0) / 100
        last = 1.0 - 0.9 * max(step - 85, 0) / 25
        assert float(linear(step)) == pytest.approx(min(rise, line), abs=1e-6)
        assert float(stable(step)) == pytest.approx(min(rise, last), abs=1e-6)


def first_update(name, params, grads, width_multiplier=1.0, **changes):
    changes = dict(learning_rate=0.5, warmup_steps=0, grad_clip_norm=0.0) | changes
    tx = transformation(width_multiplier=width_multiplier, name=name, **changes)
    updates, state = tx.update(grads, tx.init(params), params)
    return updates, state


MATRIX = {"block_0": {"up": {"kernel": jax.random.normal(jax.random.key(0), (4, 16))}}}
TABLE = {"embed": {"token": {"embedding": jax.random.normal(jax.random.key(1), (5, 4))}}}


@pytest.mark.slow
def test_muon_makes_the_update_of_a_matrix_orthogonal_and_leaves_the_rest_to_adam():
    """Jordan et al. (2024): singular values near 1, by sqrt(max(1, out / in)), here 2."""
    params = MATRIX | TABLE
    grads = jax.tree.map(lambda leaf: leaf**3, params)
    updates, _ = first_update("muon", params, grads, adam_learning_rate=0.01, weight_decay=0.0)
    update = updates["block_0"]["up"]["kernel"]
    singular = np.linalg.svd(update, compute_uv=False) / (0.5 * 2)
    assert (singular > 0.6).all() and (singular < 1.3).all()
    u, _, vt = np.linalg.svd(grads["block_0"]["up"]["kernel"], full_matrices=False)
    alike = -(update * (u @ vt)).sum() / np.linalg.norm(update) / np.linalg.norm(u @ vt)
    assert alike > 0.95
    # Adam's first step is the sign of the gradient; optax's adds Nesterov's.
    table = updates["embed"]["token"]["embedding"]
    np.testing.assert_array_equal(np.sign(table), -np.sign(grads["embed"]["token"]["embedding"]))
    assert jnp.abs(table).max() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_muon_is_that_of_optax(shape, precision, tolerance):
    """The same gradient thrice: how each corrects its young momentum then makes no difference."""
    kernel, gradient = jax.random.normal(jax.random.key(2), (2, *shape))
    params, grads = ({"up": {"kernel": leaf}} for leaf in (kernel, gradient))
    changes = dict(learning_rate=0.1, weight_decay=0.2, momentum=0.9, warmup_steps=0)
    changes |= dict(name="muon", schedule="wsd", decay_share=0.01, grad_clip_norm=0.0)
    ours = transformation(1000, **changes)
    theirs = optax.contrib.muon(0.1, beta=0.9, weight_decay=0.2)
    with jax.default_matmul_precision(precision):
        one, other = (updated(tx, params, grads)["up"]["kernel"] for tx in (ours, theirs))
    assert jnp.linalg.norm(one - other) < tolerance * jnp.linalg.norm(other - kernel)


def updated(tx, params, grads):
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_muon_takes_one_rate_for_all_unless_it_is_given_two():
    one, _ = first_update("muon", TABLE, TABLE)
    two, _ = first_update("muon", TABLE, TABLE, adam_learning_rate=1.0)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, two, jax.tree.map(twice, one))


def twice(leaf):
    return 2 * leaf


@pytest.mark.parametrize("name", ["muon", "lion", "adafactor", "sgd"])
def test_others_shrink_kernels_alone(name):
    """Without a gradient nothing is left but the decay, learning rate times weight_decay."""
    params = MATRIX | TABLE
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = first_update(name, params, zeros, weight_decay=0.1)
    shrunk = jax.tree.map(lambda leaf: -0.5 * 0.1 * leaf, MATRIX)
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-6), updates, shrunk | {"embed": zeros["embed"]}
    )


def test_lion_and_sgd_by_hand():
    lion, _ = first_update("lion", TABLE, TABLE, weight_decay=0.0)
    sgd, _ = first_update("sgd", TABLE, TABLE, momentum=0.9, weight_decay=0.0)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -0.5 * jnp.sign(g)), lion, TABLE)
    # Nesterov's: the gradient, and 0.9 of the momentum that it has just become part of.
    close = partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(lambda u, g: close(u, -0.5 * 1.9 * g), sgd, TABLE)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_a_wider_model_steps_less_where_inputs_have_become_more(name):
    """Yang et al. (2021), table 8: hidden matrices by the width_multiplier, embeddings not."""
    params = MATRIX | TABLE
    narrow, _ = first_update(name, params, params)
    wide, _ = first_update(name, params, params, width_multiplier=4.0)
    close = partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(lambda n, w: close(w, n / 4), narrow["block_0"], wide["block_0"])
    jax.tree.map(close, narrow["embed"], wide["embed"])


def test_muon_needs_no_rule_for_a_wider_model_and_others_have_none():
    params = MATRIX | TABLE
    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    one, other = (first_update("muon", params, params, width_multiplier=w)[0] for w in (1.0, 4.0))
    jax.tree.map(close, one, other)
    with pytest.raises(UserError, match=r"'sgd' has no rule for --config\.model\.mup_base_dim"):
        first_update("sgd", params, params, width_multiplier=4.0)
