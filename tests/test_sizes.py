"""Counts by formula against built models, and against XLA's cost analysis."""

import importlib

import jax
import jax.numpy as jnp
import pytest

import models
from experiments import default, gpt2, sizes
from runtime.errors import UserError
from training.step import gradient_flops

FAMILY = [
    *(f"ladder-{rung}" for rung in (1, 2, 5)),
    "ladder-3-1.5M",
    "width-32",
    "width-256",
    "context-16",
    *(f"vocabulary-{name}" for name in sizes.VOCABULARIES),
]


def built(preset):
    config = gpt2.get_config(preset)
    vocab_size = sizes.VOCABULARIES[config.data.tokenizer]
    return config, vocab_size, models.build(config.model, vocab_size)


def params_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["", *gpt2.PRESETS, *FAMILY])
def test_parameters_are_counted_exactly(preset):
    config, vocab_size, model = built(preset)
    params = params_of(model)
    count = sizes.count_parameters(config.model, vocab_size)
    assert count.total == sum(leaf.size for leaf in jax.tree.leaves(params))
    outside = {name: params[name] for name in ("embed", "pair_embed", "logits") if name in params}
    assert count.embedding == sum(leaf.size for leaf in jax.tree.leaves(outside))


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", ["", "laptop", "swiglu", "grouped_queries", "untied", "openwebtext", *FAMILY]
)
def test_flops_are_those_that_xla_counts(preset):
    """Within 5 %."""
    config, vocab_size, model = built(preset)
    shape = (2, config.model.context_length + 1)
    counted = gradient_flops(model, shape) / 2 / config.model.context_length
    assert sizes.flops_per_token(config.model, vocab_size) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("preset", FAMILY)
def test_families_are_presets_of_gpt2(preset):
    config = gpt2.get_config(preset)
    assert config.is_locked
    assert config.model.embed_dim % config.model.num_heads == 0
    assert config.optimizer.warmup_steps <= config.train.num_steps / 10


def test_a_rung_trains_on_the_tokens_it_is_given():
    for rung, millions in ((1, 0.5), (2, 1), (5, 4)):
        config = gpt2.get_config(f"ladder-{rung}-{millions}M")
        per_step = config.train.batch_size * config.model.context_length
        assert abs(config.train.num_steps * per_step - millions * 1e6) <= per_step / 2
    config = gpt2.get_config("ladder-2")
    tokens = config.train.num_steps * config.train.batch_size * config.model.context_length
    assert tokens == pytest.approx(20 * sizes.count_parameters(config.model, 65).total, rel=0.01)


def test_vocabularies_cost_the_same():
    costs = []
    for name, size in sizes.VOCABULARIES.items():
        config = gpt2.get_config(f"vocabulary-{name}")
        tokens = config.train.num_steps * config.train.batch_size * config.model.context_length
        costs.append(tokens * sizes.flops_per_token(config.model, size))
    assert max(costs) == pytest.approx(min(costs), rel=0.01)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("ladder-0", "preset 'ladder-0': expected ladder-1 to ladder-64"),
        ("ladder-65-1M", "expected ladder-1 to ladder-64"),
        ("width-48", "preset 'width-48': expected a width divisible by 32"),
        ("width-0", "expected a width divisible by 32"),
        ("context-48", "preset 'context-48': expected a divisor of 1024"),
        ("context-0", "expected a divisor of 1024"),
        (
            "vocabulary-bpe:3",
            "preset 'vocabulary-bpe:3': expected vocabulary- and one of char, byte",
        ),
        ("ladder-3-0M", "preset 'ladder-3-0M': its budget is less than one batch"),
        ("xl+vocabulary-gpt2", "preset 'vocabulary-gpt2': its budget is less than one batch"),
        ("ladder-x", "unknown preset 'ladder-x'"),
        ("tiny", ":ladder-<n>-<m>M, :width-<n>, :context-<n>, :vocabulary-<tokenizer>, "),
    ],
)
def test_a_wrong_preset_is_named(preset, message):
    with pytest.raises(UserError) as error:
        gpt2.get_config(preset)
    assert message in str(error.value)


@pytest.mark.parametrize("stage", ["bigram", "transformer_decoder"])
def test_families_belong_to_gpt2_alone(stage):
    module = importlib.import_module(f"experiments.{stage}")
    with pytest.raises(UserError, match="unknown preset 'ladder-1'"):
        module.get_config("ladder-1")


def test_the_default_of_stage_5_is_published_gpt2():
    """Stage 5 without a preset is GPT-2: the other keys of default.py are neutral."""
    neutral = default.get_config().model
    config = gpt2.get_config().model
    shape = ("name", "context_length", "embed_dim", "num_heads", "num_layers")
    assert {key for key in config if config[key] != neutral[key]} == set(shape)
