"""GPT-2 against the `transformers` model with the same weights: forward, backward, step, text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import models
from experiments import default
from inference.generation import generate
from inference.sampling import Sampling, limit_logits
from models.hugging_face import to_params
from runtime import devices
from tests.gpt2_weights import FIXTURE, D, H, L, T, V
from tests.interop.fixture import TOKENS_BT, fixture, logits_of, tiny_gpt2, weights_of
from tests.stages import NO_DROPOUT
from training import optimizer, schedule
from training.loss import cross_entropy
from training.step import initial_metrics, train_steps

OURS = models.GPT2(V, T, embed_dim=D, num_heads=H, num_layers=L, **NO_DROPOUT)


def ours_from(theirs):
    """Returns our parameter tree with the weights of a GPT2LMHeadModel."""
    # Copies: PyTorch's optimizer writes to the memory of these arrays.
    return jax.tree.map(np.array, to_params(weights_of(theirs), OURS))


def assert_leaves_close(ours, theirs, **tolerance):
    ours, theirs = flatten_dict(ours, sep="/"), flatten_dict(theirs, sep="/")
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_allclose(ours[path], theirs[path], **tolerance, err_msg=path)


def test_the_fixture_equals_transformers():
    with np.load(FIXTURE, allow_pickle=False) as committed:
        assert dict(committed).keys() == fixture().keys()
        for name, array in fixture().items():
            np.testing.assert_allclose(committed[name], array, atol=1e-5, err_msg=name)
            assert committed[name].dtype == array.dtype


@pytest.mark.parametrize("num_tokens", [1, 5, T])
def test_logits_are_equal(num_tokens):
    theirs = tiny_gpt2()
    tokens_BT = np.random.default_rng(1).integers(0, V, (2, num_tokens))
    logits_BTV = jax.jit(OURS.apply)({"params": ours_from(theirs)}, tokens_BT)
    np.testing.assert_allclose(logits_BTV, logits_of(theirs, tokens_BT), atol=1e-5)


def our_state(theirs, config, num_steps):
    """Returns a train state with the weights of `theirs`, and the schedule."""
    tx = optimizer.build(config.optimizer)
    state = TrainState.create(apply_fn=OURS.apply, params=ours_from(theirs), tx=tx)
    return jax.tree.map(jnp.asarray, state), schedule.build(config.optimizer, num_steps)


def test_loss_and_every_gradient_are_equal():
    theirs = tiny_gpt2()
    tokens_BT = torch.from_numpy(TOKENS_BT)
    their_loss = theirs(tokens_BT, labels=tokens_BT).loss  # It shifts the labels itself.
    their_loss.backward()
    their_grads = to_params({name: w.grad.numpy() for name, w in theirs.named_parameters()}, OURS)

    state, _ = our_state(theirs, default.get_config(), num_steps=1)
    value_and_grad = jax.jit(jax.value_and_grad(cross_entropy), static_argnums=1)
    loss, grads = value_and_grad(state.params, state.apply_fn, TOKENS_BT, jax.random.key(0))
    np.testing.assert_allclose(loss, their_loss.item(), rtol=1e-6)
    assert_leaves_close(grads, their_grads, rtol=1e-4, atol=1e-6)


def torch_adamw(model, config):
    """Returns PyTorch's AdamW with our settings; only the matrices of Dense layers decay."""
    decayed = [w for name, w in model.named_parameters() if is_kernel(name)]
    rest = [w for name, w in model.named_parameters() if not is_kernel(name)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(config.b1, config.b2))


def is_kernel(name):
    return ".c_" in name and name.endswith(".weight")


def test_updates_are_those_of_torch_adamw():
    """Several updates test the moments, bias correction, schedule and clipping."""
    num_steps = 4
    config = default.get_config()
    # The gradient norms are 4.7, 4.7, 3.2 and 1.4: three are clipped.
    config.optimizer.update(
        learning_rate=0.01, warmup_steps=2, weight_decay=0.5, grad_clip_norm=2.0
    )
    theirs = tiny_gpt2()
    adamw = torch_adamw(theirs, config.optimizer)
    state, rates = our_state(theirs, config, num_steps)
    tokens_BT = torch.from_numpy(TOKENS_BT)
    clipped = []
    metrics = initial_metrics(devices.data_mesh(1))
    for step in range(num_steps):
        state, measured = train_steps(state, metrics, TOKENS_BT[None], *(0, 1, 0, 0), rates)
        adamw.zero_grad()
        theirs(tokens_BT, labels=tokens_BT).loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), config.optimizer.grad_clip_norm)
        np.testing.assert_allclose(measured.grad_norm, norm, rtol=1e-4)
        clipped.append(norm.item() > config.optimizer.grad_clip_norm)
        for group in adamw.param_groups:
            group["lr"] = float(rates(step))
        adamw.step()
    assert set(clipped) == {True, False}
    # Weights have moved by 0.02 on the way here.
    assert_leaves_close(
        without_key_biases(state.params), without_key_biases(ours_from(theirs)), atol=1e-5
    )


def without_key_biases(params):
    """Returns the parameters without the biases of keys.

    A key's bias adds the same to all scores of a query, so that its gradient is 0 up to rounding,
    which Adam scales to full updates: a random walk on both sides.
    """
    flat = flatten_dict(params)
    return unflatten_dict({path: w for path, w in flat.items() if path[-2:] != ("key", "bias")})


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7),
        Sampling(top_k=1),
        Sampling(top_k=7),
        Sampling(top_p=0.5),
        Sampling(top_p=0.95),
        Sampling(temperature=1.3, top_k=20, top_p=0.8),
        Sampling(temperature=0.5, top_k=50, top_p=0.3),
    ],
)
def test_temperature_top_k_and_top_p_equal_transformers(sampling):
    logits_BV = 3 * np.random.default_rng(0).normal(size=(200, 50)).astype(np.float32)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    warpers.append(TopPLogitsWarper(sampling.top_p))
    theirs = warpers(None, torch.from_numpy(logits_BV)).numpy()
    ours = jax.vmap(lambda logits_V: limit_logits(sampling, logits_V))(logits_BV)
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("prompt", [[3], [1, 9, 4]])
def test_greedy_text_is_what_transformers_generates(prompt):
    """Within the context, for `transformers` generates no further."""
    theirs = tiny_gpt2()
    num_tokens = T - len(prompt)
    text = theirs.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=num_tokens, pad_token_id=0
    )
    made = generate(
        OURS,
        ours_from(theirs),
        np.array(prompt),
        num_tokens=num_tokens,
        context_length=T,
        sampling=Sampling(temperature=0),
        seed=0,
    )
    np.testing.assert_array_equal(
        np.concatenate([prompt, *(chunk[0] for chunk in made)]), text[0].numpy()
    )
