"""The schedule against its closed form, the decay mask, the clip, and one step of AdamW by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import optimizer
from errors import UserError
from experiments import default
from tests.stages import init


def config(**changes):
    config = default.get_config().optimizer
    config.update(changes)
    return config


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine():
    changes = dict(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    _, schedule = optimizer.build(config(**changes), num_steps=110)
    for step in range(111):
        if step <= 10:
            expected = step / 10
        else:
            expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


def test_a_run_shorter_than_its_warmup_still_peaks_and_ends():
    _, schedule = optimizer.build(config(learning_rate=1.0, warmup_steps=100), num_steps=10)
    assert float(schedule(5)) == pytest.approx(1.0)
    assert float(schedule(10)) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["bigram", "self_attention", "transformer_decoder", "gpt2"])
def test_only_kernels_decay(name):
    mask = flatten_dict(optimizer.decay_mask(init(name)))
    for path, decays in mask.items():
        assert decays == (path[-1] == "kernel"), path
    assert any(mask.values()) == (name != "bigram")


def test_one_update_is_adamw_of_the_clipped_gradient():
    """Loshchilov and Hutter (2019), algorithm 2, first step."""
    changes = dict(learning_rate=0.5, warmup_steps=0, weight_decay=0.1, grad_clip_norm=1.0)
    tx, _ = optimizer.build(config(**changes), num_steps=10)
    params = {"kernel": jnp.array([2.0, -3.0]), "bias": jnp.array([1.0])}
    grads = {"kernel": jnp.array([30.0, 0.0]), "bias": jnp.array([40.0])}  # 50 long.
    updates, _ = tx.update(grads, tx.init(params), params)
    new = optax.apply_updates(params, updates)
    # The first step of Adam is the sign of the gradient; what decays loses lr * wd of itself.
    np.testing.assert_allclose(new["kernel"], [2 - 0.5 * (1 + 0.2), -3 + 0.5 * 0.3], rtol=1e-5)
    np.testing.assert_allclose(new["bias"], [1 - 0.5], rtol=1e-5)


@pytest.mark.parametrize(("clip", "length"), [(1.0, 1.0), (0.0, 50.0)])
def test_the_clip_bounds_the_gradient_and_0_does_not(clip, length):
    tx, _ = optimizer.build(config(grad_clip_norm=clip), num_steps=10)
    params = {"kernel": jnp.array([30.0, 40.0])}
    _, state = tx.update(params, tx.init(params), params)
    mean = next(leaf for leaf in jax.tree.leaves(state) if getattr(leaf, "shape", ()) == (2,))
    np.testing.assert_allclose(jnp.linalg.norm(mean) / (1 - 0.9), length, rtol=1e-5)


def test_an_unknown_optimizer():
    with pytest.raises(UserError, match=r"config\.optimizer\.name='sgd': the only one is 'adamw'"):
        optimizer.build(config(name="sgd"), num_steps=10)
