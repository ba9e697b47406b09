"""GPT-2 against a fixture of logits from `transformers`, for PyTorch is not installed here.

`make interop` checks the fixture against `transformers`.
"""

import jax
import numpy as np

import models
from models.hugging_face import to_params
from tests.gpt2_weights import FIXTURE, D, H, L, T, V
from tests.stages import NO_DROPOUT


def test_logits_equal_those_of_transformers():
    with np.load(FIXTURE, allow_pickle=False) as file:
        fixture = dict(file)
    tokens_BT, expected_BTV = fixture.pop("tokens"), fixture.pop("logits")
    model = models.GPT2(V, T, embed_dim=D, num_heads=H, num_layers=L, **NO_DROPOUT)
    params = to_params(fixture, model)
    fresh = model.init(jax.random.key(0), tokens_BT)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, fresh)
    logits_BTV = model.apply({"params": params}, tokens_BT)
    np.testing.assert_allclose(logits_BTV, expected_BTV, atol=1e-5)
    # The weights are large enough for a wrong activation or scale to show.
    assert expected_BTV.std() > 0.5
