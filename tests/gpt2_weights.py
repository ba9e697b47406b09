"""A tiny GPT-2 that tests compare with `transformers`, and how its weights become ours.

No PyTorch here, so that the tests with it (tests/interop/) and those with the fixture that it
wrote (tests/test_gpt2_oracle.py) share this.
"""

from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

FIXTURE = Path(__file__).parent / "fixtures/gpt2_tiny.npz"
# Its sizes; with K = D / H and F = 4 D the axes differ pairwise.
V, T, D, H, L = 11, 7, 12, 3, 2


def to_params(weights: dict[str, np.ndarray]) -> dict:
    """The tree of models.GPT2 from the parameters of a GPT2LMHeadModel, by their names there.

    Both keep kernels as [in, out], and both tie the head to the token embedding. Numbers are
    moved, never mixed, so gradients go the same way.
    """
    tree = {
        "embed/token/embedding": weights["transformer.wte.weight"],
        "embed/position/embedding": weights["transformer.wpe.weight"],
        **_norm("final_norm", weights, "transformer.ln_f"),
    }
    for layer in range(L):
        ours, theirs = f"block_{layer}", f"transformer.h.{layer}"
        tree |= _norm(f"{ours}/attention_norm", weights, f"{theirs}.ln_1")
        tree |= _norm(f"{ours}/mlp_norm", weights, f"{theirs}.ln_2")
        # Query, key and value stand side by side in one product.
        kernels = np.split(weights[f"{theirs}.attn.c_attn.weight"], 3, axis=1)
        biases = np.split(weights[f"{theirs}.attn.c_attn.bias"], 3)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            tree[f"{ours}/attention/{name}/kernel"] = kernel
            tree[f"{ours}/attention/{name}/bias"] = bias
        tree |= _dense(f"{ours}/attention/out", weights, f"{theirs}.attn.c_proj")
        tree |= _dense(f"{ours}/mlp/up", weights, f"{theirs}.mlp.c_fc")
        tree |= _dense(f"{ours}/mlp/down", weights, f"{theirs}.mlp.c_proj")
    return unflatten_dict(tree, sep="/")


def _dense(ours: str, weights: dict[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    weight, bias = weights[f"{theirs}.weight"], weights[f"{theirs}.bias"]
    return {f"{ours}/kernel": weight, f"{ours}/bias": bias}


def _norm(ours: str, weights: dict[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    weight, bias = weights[f"{theirs}.weight"], weights[f"{theirs}.bias"]
    return {f"{ours}/scale": weight, f"{ours}/bias": bias}
