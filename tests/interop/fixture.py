"""Tiny random GPT-2 of `transformers` that ours must equal; writes its weights and logits.

tests/test_gpt2_oracle.py reads that fixture where PyTorch is not installed. To rewrite it after a
change here: `.venv-peers/bin/python -m tests.interop.fixture`.
"""

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.gpt2_weights import FIXTURE, D, H, L, T, V

TOKENS_BT = np.random.default_rng(0).integers(0, V, (2, T - 2))


def tiny_gpt2() -> GPT2LMHeadModel:
    """Returns a GPT-2 with pairwise different sizes and random weights, in evaluation mode.

    Biases and norms are random, too: initial values of 0 and 1 would hide a missing one.
    """
    config = GPT2Config(
        vocab_size=V,
        n_positions=T,
        n_embd=D,
        n_head=H,
        n_layer=L,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        # The defaults are ids of the published vocabulary.
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            mean = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            weight.copy_(torch.from_numpy(generator.normal(mean, 0.3, weight.shape)))
    return model


def weights_of(model: GPT2LMHeadModel) -> dict[str, np.ndarray]:
    """Returns the parameters by their names, without the tied head."""
    return {name: weight.detach().numpy() for name, weight in model.named_parameters()}


def logits_of(model: GPT2LMHeadModel, tokens_BT: np.ndarray) -> np.ndarray:
    """Returns the logits [B, T, V]."""
    with torch.no_grad():
        return model(torch.from_numpy(tokens_BT)).logits.numpy()


def fixture() -> dict[str, np.ndarray]:
    """Returns the weights, `tokens` [B, T] and their `logits` [B, T, V]."""
    model = tiny_gpt2()
    return {**weights_of(model), "tokens": TOKENS_BT, "logits": logits_of(model, TOKENS_BT)}


if __name__ == "__main__":
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FIXTURE, **fixture())
    print(f"{FIXTURE}: {FIXTURE.stat().st_size} bytes")
