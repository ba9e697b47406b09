"""Stages without one idea, against a forward pass that is written out here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from experiments import default, without
from models.without import IDEAS, Without
from run_folder import flatten
from runtime.errors import UserError
from tests.command import run
from tests.stages import ATTENTIVE, TINY, T, V

TOKENS = jax.random.randint(jax.random.key(7), (2, T), 0, V)
# Every stage and idea that models/without.py leaves out of it.
CASES = [(stage, idea) for stage in ATTENTIVE for idea in without.ideas(stage) if idea in IDEAS]


def parameters(model):
    """Its parameters, far from their initial values: no bias is 0, no norm is the identity."""
    params = model.init(jax.random.key(0), TOKENS)["params"]
    leaves, tree = jax.tree.flatten(params)
    rngs = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        leaf + 0.3 * jax.random.normal(rng, leaf.shape)
        for leaf, rng in zip(leaves, rngs, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def forward(model, params, idea):
    """The logits of `model` without `idea`: one function for all stages, in plain NumPy."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    num_heads, tokens = getattr(model, "num_heads", 1), np.asarray(TOKENS)

    def dense(layer, x):
        return x @ layer["kernel"] + layer.get("bias", 0.0)

    def norm(layer, x):
        if idea == "layer_norm":
            return x
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * layer["scale"] + layer["bias"]

    def attention(layer, x):
        heads = []
        for columns in np.split(np.arange(x.shape[-1]), num_heads):
            q, k, v = (dense(layer[name], x)[..., columns] for name in ("query", "key", "value"))
            scores = q @ k.swapaxes(1, 2)
            scores = scores if idea == "scale" else scores / len(columns) ** 0.5
            if idea != "mask":
                scores[:, np.triu(np.ones((T, T), bool), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v)
        y = np.concatenate(heads, -1)
        return dense(layer["out"], y) if "out" in layer and idea != "projection" else y

    def mlp(layer, x):
        h = dense(layer["up"], x)
        if isinstance(model, models.GPT2):
            h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        else:
            h = np.maximum(h, 0)
        return dense(layer["down"], h)

    x = params["embed"]["token"]["embedding"][tokens]
    if idea != "positions":
        x = x + params["embed"]["position"]["embedding"][:T]
    if "attention" in params:  # A single layer.
        return dense(params["logits"], attention(params["attention"], x))
    for number in range(model.num_layers):
        block, carried = params[f"block_{number}"], 0 if idea == "residual" else 1
        x = carried * x + attention(block["attention"], norm(block.get("attention_norm"), x))
        if idea != "mlp":
            x = carried * x + mlp(block["mlp"], norm(block.get("mlp_norm"), x))
    x = norm(params.get("final_norm"), x)
    return (
        dense(params["logits"], x)
        if "logits" in params
        else x @ params["embed"]["token"]["embedding"].T
    )


@pytest.mark.parametrize(("stage", "idea"), [(stage, "") for stage in ATTENTIVE] + CASES)
def test_logits_equal_a_forward_pass_without_the_idea(stage, idea):
    model = Without(TINY[stage], idea) if idea else TINY[stage]
    params = parameters(model)
    logits = model.apply({"params": params}, TOKENS)
    np.testing.assert_allclose(logits, forward(TINY[stage], params, idea), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("stage", "idea"), CASES)
def test_what_is_left_out_has_no_parameters_and_the_rest_keeps_its_names(stage, idea):
    whole, left = (
        flatten(jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"])
        for model in (TINY[stage], Without(TINY[stage], idea))
    )
    gone = {
        "positions": "embed.position.",
        "projection": ".out.",
        "layer_norm": "norm.",
        "mlp": "mlp",
    }
    expected = {name for name in whole if idea not in gone or gone[idea] not in f".{name}"}
    if idea == "positions":
        expected = {name for name in whole if not name.startswith("embed.position.")}
    assert left.keys() == expected
    assert len(left) < len(whole) or idea not in gone
    assert all(left[name].shape == whole[name].shape for name in left)


def test_one_head_has_as_many_parameters():
    for stage in ATTENTIVE[1:]:
        one = TINY[stage].clone(num_heads=1)
        counts = [
            sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, *args)))
            for model in (TINY[stage], one)
            for args in [(jax.random.key(0), TOKENS)]
        ]
        assert counts[0] == counts[1]


@pytest.mark.slow
def test_without_a_mask_a_logit_depends_on_later_tokens_but_generated_text_can_not():
    for stage in ATTENTIVE:
        model, whole = Without(TINY[stage], "mask"), TINY[stage]
        params = parameters(model)
        changed = TOKENS.at[:, -1].set((TOKENS[:, -1] + 1) % V)
        before, after = (model.apply({"params": params}, text)[:, 0] for text in (TOKENS, changed))
        assert jnp.abs(before - after).max() > 1e-3
        generated, _ = model.apply({"params": params}, TOKENS, mutable=["cache"])
        np.testing.assert_allclose(
            generated, whole.apply({"params": params}, TOKENS), rtol=1e-4, atol=1e-4
        )


@pytest.mark.slow
def test_initial_weights_are_those_of_flax_in_place_of_gpt2s():
    model = models.GPT2(65, 64, 128, 4, 2, 0.0, 0.0)
    drawn = flatten(Without(model, "initialization").init(jax.random.key(0), TOKENS)["params"])
    for name, leaf in drawn.items():
        if name.endswith("kernel"):
            assert np.std(leaf) == pytest.approx(leaf.shape[0] ** -0.5, rel=0.03), name
        elif name.endswith("embedding"):
            assert np.std(leaf) == pytest.approx(leaf.shape[1] ** -0.5, rel=0.03), name
    names = [name for name in drawn if name.endswith("query.kernel")]
    assert not np.array_equal(drawn[names[0]], drawn[names[1]])
    again = flatten(Without(model, "initialization").init(jax.random.key(0), TOKENS)["params"])
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)


@pytest.mark.parametrize("stage", ATTENTIVE)
def test_each_idea_of_a_stage_has_a_preset_that_changes_it(stage):
    experiment = __import__(f"experiments.{stage}", fromlist=["get_config"])
    plain = experiment.get_config("smoke").model
    for idea in without.ideas(stage):
        changed = experiment.get_config(f"smoke+without_{idea}").model
        assert changed != plain or idea == "dropout"  # Off already, in the small sizes.
        models.build(changed, V)


def test_ideas_add_up_along_the_ladder_and_those_of_a_later_stage_are_refused():
    counts = [len(without.ideas(stage)) for stage in default.LADDER]
    assert counts == sorted(set(counts)) and counts[0] == 0
    assert {idea for stage in default.LADDER for idea in without.ideas(stage)} >= IDEAS.keys()
    experiment = __import__("experiments.self_attention", fromlist=["get_config"])
    with pytest.raises(UserError, match=r"'without_mlp': expected one of without_scale, without_m"):
        experiment.get_config("without_mlp")


@pytest.mark.long
def test_a_run_without_an_idea_trains_and_writes_text(tmp_path):
    folder = tmp_path / "run"
    config = "--config=experiments/transformer_decoder.py:smoke+without_mask"
    run("main.py", config, f"--workdir={folder}", "--config.tracking.wandb_mode=disabled")
    text = run("generate.py", f"--workdir={folder}", "--prompt=KING", "--num_tokens=8")
    assert text.returncode == 0 and len(text.stdout) >= len("KING") + 8
    refused = run("main.py", config, "--config.model.without=gelu")
    assert refused.returncode == 2
    assert "'gelu': expected one of layer_norm, mask, mlp, positions" in refused.stderr
