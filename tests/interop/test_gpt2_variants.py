"""Variants of GPT-2 against PyTorch, and against models of transformers that have them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from experiments import default
from models.gpt2_parts import ACTIVATIONS, NORMS, VariantMlp
from models.gpt2_variants import VariantAttention
from models.layers import Dense
from models.positions import alibi_slopes, apply_rope
from tests.interop.test_layers import X_BTD, random_params
from training import optimizer, schedule

B, T, H, K = 2, 5, 3, 4
D = H * K
DENSE = partial(Dense, use_bias=False)


@pytest.mark.parametrize("start", [0, 11])
def test_rotation_is_that_of_llama(start):
    q_BTHK = np.random.default_rng(0).normal(size=(B, T, H, K)).astype(np.float32)
    config = LlamaConfig(hidden_size=D, num_attention_heads=H)
    positions = torch.arange(start, start + T)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.from_numpy(q_BTHK), positions)
    q = torch.from_numpy(q_BTHK).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(q, q, cos, sin)
    np.testing.assert_allclose(apply_rope(q_BTHK, start), expected.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 4, 6, 8, 12, 25])
def test_slopes_are_those_of_bloom(num_heads):
    theirs = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)
    np.testing.assert_allclose(alibi_slopes(num_heads), theirs[:, 0, 1], rtol=1e-6)


def test_rms_norm_is_that_of_llama():
    ours = NORMS["rms_norm"](epsilon=1e-5)
    params = random_params(ours)
    theirs = LlamaRMSNorm(D, eps=1e-5)
    theirs.weight.data = torch.from_numpy(params["scale"])
    x_BTD = 0.01 * X_BTD
    expected = theirs(torch.from_numpy(x_BTD)).detach()
    np.testing.assert_allclose(ours.apply({"params": params}, x_BTD), expected, atol=1e-5)


def test_swiglu_is_the_mlp_of_llama():
    ours = VariantMlp(DENSE, DENSE, "swiglu", hidden_dim=20)
    params = random_params(ours)
    config = LlamaConfig(hidden_size=D, num_attention_heads=H, intermediate_size=20)
    theirs = LlamaMLP(config)
    for name in ("gate", "up", "down"):
        kernel = torch.from_numpy(params[name]["kernel"].T)
        getattr(theirs, f"{name}_proj").weight.data = kernel
    expected = theirs(torch.from_numpy(X_BTD)).detach()
    np.testing.assert_allclose(ours.apply({"params": params}, X_BTD), expected, atol=1e-5)


def test_relu_squared():
    expected = torch.relu(torch.from_numpy(X_BTD)) ** 2
    np.testing.assert_allclose(ACTIVATIONS["relu_squared"](X_BTD), expected, rtol=1e-6)


def test_grouped_queries_are_those_of_torch():
    ours = VariantAttention(H, T, DENSE, DENSE, num_kv_heads=1)
    params = random_params(ours)
    q, k, v = (
        torch.from_numpy(X_BTD @ params[name]["kernel"]).reshape(B, T, -1, K).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    expected = y.transpose(1, 2).reshape(B, T, D).numpy() @ params["out"]["kernel"]
    np.testing.assert_allclose(ours.apply({"params": params}, X_BTD), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_muon_is_that_of_torch(shape):
    """With the same gradient twice, the two corrections of early momentum agree.

    The tolerance is for PyTorch's products in bfloat16.
    """
    generator = np.random.default_rng(0)
    kernel, gradient = generator.normal(size=(2, *shape)).astype(np.float32)
    # PyTorch's matrices are [out, in].
    weight = torch.nn.Parameter(torch.from_numpy(kernel.T.copy()))
    theirs = torch.optim.Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.2)
    config = default.get_config().optimizer
    config.update(name="muon", learning_rate=0.1, momentum=0.9, weight_decay=0.2)
    config.update(schedule="wsd", decay_share=0.01, warmup_steps=0, grad_clip_norm=0.0)
    tx = optimizer.build(config).with_rates(schedule.build(config, num_steps=1000))
    params = {"block_0": {"up": {"kernel": jnp.asarray(kernel)}}}
    state = tx.init(params)
    for _ in range(2):
        weight.grad = torch.from_numpy(gradient.T.copy())
        theirs.step()
        updates, state = tx.update({"block_0": {"up": {"kernel": gradient}}}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    ours = params["block_0"]["up"]["kernel"]
    moved = np.linalg.norm(weight.detach().numpy().T - kernel)
    assert np.linalg.norm(ours - weight.detach().numpy().T) < 0.02 * moved
