"""The parts that stages 2 to 4 introduce against PyTorch's own, with the same weights."""

import jax
import numpy as np
import pytest
import torch

from models.gpt2 import GPT2Attention, init
from models.multi_head_attention import MultiHeadAttention
from models.self_attention import causal_attention
from models.transformer_decoder import Block, LayerNorm

B, T, H, K = 2, 5, 3, 4
D = H * K
X_BTD = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
MASK_TT = torch.nn.Transformer.generate_square_subsequent_mask(T)


def random_params(module):
    """Returns random parameters for a module of ours: no bias at 0, no scale at 1."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), X_BTD)["params"]
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: generator.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes
    )


def put(theirs, weights):
    """Copies arrays into the parameters of a PyTorch module; all must be given."""
    assert weights.keys() == dict(theirs.named_parameters()).keys()
    with torch.no_grad():
        for name, array in weights.items():
            theirs.get_parameter(name).copy_(torch.from_numpy(array))


def attention_weights(params, prefix=""):
    """Returns ours as torch.nn.MultiheadAttention's: [out, in], query, key and value stacked."""
    parts = [params[name] for name in ("query", "key", "value")]
    weights = {
        f"{prefix}in_proj_weight": np.concatenate([part["kernel"].T for part in parts]),
        f"{prefix}out_proj.weight": params["out"]["kernel"].T,
    }
    if "bias" in params["out"]:
        weights[f"{prefix}in_proj_bias"] = np.concatenate([part["bias"] for part in parts])
        weights[f"{prefix}out_proj.bias"] = params["out"]["bias"]
    return weights


def test_one_head_is_scaled_dot_product_attention():
    q, k, v = np.random.default_rng(0).normal(size=(3, B, T, K)).astype(np.float32)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(x) for x in (q, k, v)), is_causal=True
    )
    np.testing.assert_allclose(causal_attention(q, k, v), theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "has_bias"),
    [(MultiHeadAttention(H, T), False), (GPT2Attention(H, T, init, dropout_rate=0.0), True)],
    ids=["stage 3", "stage 5"],
)
def test_heads_are_those_of_torch_multihead_attention(ours, has_bias):
    params = random_params(ours)
    theirs = torch.nn.MultiheadAttention(D, H, bias=has_bias, batch_first=True)
    put(theirs, attention_weights(params))
    x = torch.from_numpy(X_BTD)
    expected, _ = theirs(x, x, x, attn_mask=MASK_TT, need_weights=False)
    np.testing.assert_allclose(ours.apply({"params": params}, X_BTD), expected.detach(), atol=1e-5)


def test_layer_norm_is_that_of_torch():
    params = random_params(LayerNorm())
    theirs = torch.nn.LayerNorm(D)
    put(theirs, {"weight": params["scale"], "bias": params["bias"]})
    # Small numbers make epsilon matter.
    x_BTD = 0.01 * X_BTD
    ours_BTD = LayerNorm().apply({"params": params}, x_BTD)
    np.testing.assert_allclose(ours_BTD, theirs(torch.from_numpy(x_BTD)).detach(), atol=1e-5)


def test_a_block_is_a_pre_norm_encoder_layer_of_torch():
    """PyTorch's encoder layer with a causal mask is a decoder block."""
    ours = Block(H, T)
    params = random_params(ours)
    theirs = torch.nn.TransformerEncoderLayer(
        D, H, dim_feedforward=4 * D, dropout=0.0, batch_first=True, norm_first=True
    )
    weights = attention_weights(params["attention"], prefix="self_attn.")
    # Theirs has biases in all linear maps or in none.
    weights["self_attn.in_proj_bias"] = np.zeros(3 * D, np.float32)
    weights["self_attn.out_proj.bias"] = np.zeros(D, np.float32)
    for linear, name in (("linear1", "up"), ("linear2", "down")):
        weights[f"{linear}.weight"] = params["mlp"][name]["kernel"].T
        weights[f"{linear}.bias"] = params["mlp"][name]["bias"]
    for norm, name in (("norm1", "attention_norm"), ("norm2", "mlp_norm")):
        weights[f"{norm}.weight"] = params[name]["scale"]
        weights[f"{norm}.bias"] = params[name]["bias"]
    put(theirs, weights)
    expected = theirs(torch.from_numpy(X_BTD), src_mask=MASK_TT, is_causal=True)
    np.testing.assert_allclose(ours.apply({"params": params}, X_BTD), expected.detach(), atol=1e-5)
