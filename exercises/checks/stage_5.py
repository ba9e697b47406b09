"""Checks of stage 5: GELU, the parameters of GPT-2, a run within a budget."""

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import harness
import models
from exercises.checks import text, training
from exercises.compare import explain, same, whole
from exercises.learner import Answer, Wrong
from experiments import default
from models.gpt2 import GPT2
from models.gpt2 import gelu as expected_gelu
from runtime.errors import UserError

EXPERIMENT = f"{default.LADDER[-1]}:smoke"
MOST_PARAMETERS, MOST_UPDATES, MOST_TOKENS = 20_000, 300, 300_000
GROUPS = ("model.", "optimizer.", "train.")


def gelu(answer: Answer, setting: object) -> str:
    """Compares values from -4 to 4 with the model's activation."""
    x = np.linspace(-4, 4, 21).reshape(3, 7)
    expected = np.asarray(expected_gelu(jnp.asarray(x, jnp.float32)))

    def tanh_form(
        outer: float = math.sqrt(2 / math.pi), inner: float = 0.044715, power: int = 3
    ) -> np.ndarray:
        return x / 2 * (1 + np.tanh(outer * (x + inner * x**power)))

    exact = x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    mistakes = {
        "this is the exact form with erf: GPT-2 has the tanh form": exact,
        "this is ReLU, stage 4's activation": np.maximum(x, 0),
        "this is SiLU, x * sigmoid(x)": x / (1 + np.exp(-x)),
        "this is the sigmoid form, x * sigmoid(1.702 x): GPT-2 has the tanh form": (
            x / (1 + np.exp(-1.702 * x))
        ),
        "the factor 1/2 is missing": 2 * tanh_form(),
        "the 1 + before tanh is missing": tanh_form() - x / 2,
        "the factor x before the parenthesis is missing": 0.5
        * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "x^3 is missing in tanh": tanh_form(inner=0),
        "x^2 in place of x^3": tanh_form(power=2),
        "the factor 0.044715 is missing": tanh_form(inner=1),
        "the square root of 2 / pi is missing": tanh_form(outer=1),
        "2 / pi in place of its square root": tanh_form(outer=2 / math.pi),
        "sqrt(2 * pi) in place of sqrt(2 / pi)": tanh_form(outer=math.sqrt(2 * math.pi)),
        "sqrt(pi / 2) in place of sqrt(2 / pi)": tanh_form(outer=math.sqrt(math.pi / 2)),
    }
    same(answer.call("gelu", x), expected, "gelu", "RC", mistakes)
    return ""


@cache
def count(model: Any) -> int:
    """Returns the number of parameters of a model, without memory for them."""
    tokens_11 = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens_11)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def gpt2_parameters(answer: Answer, setting: object) -> str:
    """Builds GPT-2s of three sizes and counts their parameters."""
    sizes = {
        "a tiny GPT-2": (11, 5, 12, 1),
        "a smaller one": (65, 32, 48, 3),
        "GPT-2 small": (50_257, 1024, 768, 12),
    }
    for name, (V, T, D, L) in sizes.items():
        found = whole(answer.call("gpt2_parameters", V, T, D, L), "gpt2_parameters")
        expected = count(GPT2(V, T, D, num_heads=12, num_layers=L))
        if found == expected:
            continue
        mistakes = {
            "a head of its own is counted: the logits reuse the token embedding": V * D,
            "the embedding of positions is missing": -T * D,
            "the embedding of tokens is missing": -V * D,
            "the last LayerNorm is missing": -2 * D,
            "the norms of the blocks are missing": -4 * D * L,
            "all norms are missing": -4 * D * L - 2 * D,
            "the shifts of the norms are missing": -2 * D * L - D,
            "the biases of attention are missing": -4 * D * L,
            "the biases of the MLP are missing": -5 * D * L,
            "the biases of the dense layers are missing": -9 * D * L,
            "the biases of dense layers and norms are missing": -11 * D * L - D,
            "the matrix `out` of attention is missing": -(D * D) * L,
            "`out` of attention is missing, with its bias": -(D * D + D) * L,
            "the heads are counted 12 times: together they are D wide": 11 * 3 * D * D * L,
            "a bias of the logits is counted": V,
        }
        cause = explain(np.array(found - expected), mistakes, 0)
        because = f"{cause}; " if cause else ""
        raise Wrong(
            f"{because}{name} (V={V}, T={T}, D={D}, L={L}): predicted {found:,}, "
            f"{abs(found - expected):,} too {'many' if found > expected else 'few'}"
        )
    return f"GPT-2 small has {expected:,}"


def budgeted(changes: Any) -> ConfigDict:
    """Returns the config with an answer's changes. Raises Wrong for one outside the budget."""
    if not isinstance(changes, dict) or not all(isinstance(key, str) for key in changes):
        raise Wrong(f"config_changes returned {type(changes).__name__}: expected a dict of keys")
    for key in changes:
        if not key.startswith(GROUPS) or key in ("model.init_from", "model.name", "train.flops"):
            raise Wrong(
                f"{key!r} may not change: expected keys of model, optimizer and train, without "
                "model.name, model.init_from and train.flops"
            )
    try:
        config = harness.config_of(EXPERIMENT, changes)
        parameters = count(models.build(config.model, text.load().vocab_size))
    except UserError as error:
        raise Wrong(" ".join(str(error).split())) from None
    updates = config.train.num_steps
    tokens = updates * config.train.batch_size * config.model.context_length
    for name, value, most in (
        ("parameters", parameters, MOST_PARAMETERS),
        ("updates", updates, MOST_UPDATES),
        ("tokens", tokens, MOST_TOKENS),
    ):
        if value > most:
            raise Wrong(f"{value:,} {name}: expected at most {most:,}")
    return config


def config_changes(answer: Answer, setting: object) -> str:
    """Trains the answer's config, if it is within the budget."""
    changes = answer.call("config_changes")
    config = budgeted(changes)
    floor = text.loss_of_counted_pairs()
    measured = training.val_loss(EXPERIMENT, {"eval.batch_size": 128, **changes})
    if not measured < floor:
        raise Wrong(
            f"val/loss {measured:.3f} after {config.train.num_steps} updates: expected less than "
            f"{floor:.3f}, the loss of counted pairs"
        )
    return f"val/loss {measured:.3f}, below {floor:.3f} of counted pairs"
