"""Tests of the cross-entropy and its gradient, against optax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from inference.metrics import next_token_nats
from models.layers import reference

B, T, V = 2, 5, 11


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_nats_and_their_gradient_equal_the_library(scale):
    """Equal logits, ordinary ones, and some for which exp overflows."""
    rngs = jax.random.split(jax.random.key(0), 3)
    logits_BTV = scale * jax.random.normal(rngs[0], (B, T, V))
    targets_BT = jax.random.randint(rngs[1], (B, T), 0, V)
    weights_BT = jax.random.normal(rngs[2], (B, T))

    def of(nats):
        return jax.value_and_grad(lambda logits: (nats(logits, targets_BT) * weights_BT).sum())(
            logits_BTV
        )

    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        of(next_token_nats),
        of(optax.softmax_cross_entropy_with_integer_labels),
    )


def test_the_gradient_is_one_pass_without_a_scatter():
    logits_BTV, targets_BT = jnp.zeros((B, T, V)), jnp.zeros((B, T), jnp.int32)
    gradient = jax.jit(jax.grad(lambda logits: next_token_nats(logits, targets_BT).sum()))
    assert "scatter" not in gradient.lower(logits_BTV).as_text()


def test_the_reference_implementation_is_the_library():
    logits_BTV, targets_BT = jnp.zeros((B, T, V)), jnp.zeros((B, T), jnp.int32)
    with reference.forced():
        gradient = jax.jit(jax.grad(lambda logits: next_token_nats(logits, targets_BT).sum()))
        assert "scatter" in gradient.lower(logits_BTV).as_text()


def test_nats_of_a_uniform_guess_are_ln_v():
    nats_BT = next_token_nats(jnp.full((B, T, V), 3.0), jnp.zeros((B, T), jnp.int32))
    np.testing.assert_allclose(nats_BT, np.full((B, T), np.log(V)), rtol=1e-6)
