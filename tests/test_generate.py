"""Tests of generation: a fake model with known answers, cached against uncached, sampling."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from inference.generation import CHUNK, MANY_SAMPLES, generate
from inference.sampling import Sampling, limit_logits, sample_token
from runtime import programs
from tests.stages import CHANGED, TINY, T, V, init

GREEDY = Sampling(temperature=0)


class CountUp(nn.Module):
    """Model that always predicts the next number."""

    vocab_size: int

    @nn.compact
    def __call__(self, tokens_BT, *, start=0, train=False):
        return 9 * jax.nn.one_hot((tokens_BT + 1) % self.vocab_size, self.vocab_size)


def write(
    model, params, prompt, num_tokens, sampling=GREEDY, seed=0, num_samples=1, context_length=T
):
    made = generate(
        model,
        params,
        np.asarray(prompt),
        num_tokens=num_tokens,
        context_length=context_length,
        sampling=sampling,
        seed=seed,
        num_samples=num_samples,
    )
    return np.concatenate(list(made), axis=1)


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3], [*range(10), 3]])
@pytest.mark.parametrize("num_tokens", [1, CHUNK, 2 * CHUNK + 3])
def test_a_model_with_known_answers(prompt, num_tokens):
    expected = (4 + np.arange(num_tokens)) % V
    np.testing.assert_array_equal(write(CountUp(V), {}, prompt, num_tokens), [expected])


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [[3], [1, 2, 3], [1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 4, 3, 2]])
@pytest.mark.parametrize("name", [*TINY, "rotary", "alibi", "grouped_queries"])
def test_cached_equals_a_full_pass_at_every_token(name, prompt):
    """Before the context length, at it, and past it, where the window slides."""
    model, params = (TINY | CHANGED)[name], init(name, scale=3.0)
    sampling = Sampling(temperature=1.0)
    text = list(prompt)
    tokens = write(model, params, prompt, 2 * T, sampling)[0]
    rng = jax.random.fold_in(jax.random.key(0), 0)
    full = jax.jit(model.apply)
    for n, token in enumerate(tokens):
        window = text[-T:]
        # What is after the window changes no logit of it.
        padded = np.asarray([window + [0] * (T - len(window))])
        logits = full({"params": params}, padded)[0, len(window) - 1]
        assert token == sample_token(sampling, logits, jax.random.fold_in(rng, n))
        text.append(int(token))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TINY, *CHANGED])
def test_cached_logits_equal_those_of_a_full_pass(name):
    """Compares the logits of single tokens through the cache."""
    model, params = (TINY | CHANGED)[name], init(name, scale=3.0)
    tokens_BT = np.random.default_rng(0).integers(0, V, (2, T))
    whole = model.apply({"params": params}, tokens_BT)
    cache = {}
    for t in range(T):
        logits, variables = model.apply(
            {"params": params, "cache": cache}, tokens_BT[:, t : t + 1], start=t, mutable=["cache"]
        )
        cache = variables.get("cache", {})
        np.testing.assert_allclose(logits[:, 0], whole[:, t], rtol=1e-5, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize("num_samples", [MANY_SAMPLES - 1, MANY_SAMPLES])
@pytest.mark.parametrize("prompt", [[3], list(range(V)) * 6])
def test_many_samples_equal_a_single_one(num_samples, prompt):
    """The cache of many samples grows, here three times; past the context length there is none."""
    model = TINY["gpt2"].clone(context_length=150)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: 3 * leaf, params)

    def write_so_many(count):
        made = generate(
            model,
            params,
            np.array(prompt),
            num_tokens=170,
            context_length=150,
            sampling=Sampling(),
            seed=0,
            num_samples=count,
        )
        return np.concatenate(list(made), axis=1)

    many, alone = write_so_many(num_samples), write_so_many(1)
    assert many.shape == (num_samples, 170)
    np.testing.assert_array_equal(many[:1], alone)


def test_samples_differ_from_each_other_and_repeat_with_the_seed():
    uniform = (TINY["bigram"], {"next_token": {"embedding": jnp.zeros((V, V))}})
    first = write(*uniform, [0], 40, Sampling(), seed=1, num_samples=3)
    assert len({tuple(row) for row in first}) == 3
    np.testing.assert_array_equal(write(*uniform, [0], 40, Sampling(), 1, 3), first)
    assert (write(*uniform, [0], 40, Sampling(), 2, 3) != first).any()


@pytest.mark.slow
def test_a_sample_does_not_depend_on_how_many_there_are():
    model, params = TINY["gpt2"], init("gpt2", scale=3.0)
    three = write(model, params, [1], 12, Sampling(), num_samples=3)
    np.testing.assert_array_equal(write(model, params, [1], 12, Sampling()), three[:1])


def test_few_programs_serve_every_prompt_and_length(monkeypatch):
    used, compiled = set(), programs.compiled

    def recorded(*args, **keywords):
        program = compiled(*args, **keywords)
        used.add(program)
        return program

    monkeypatch.setattr(programs, "compiled", recorded)
    model, params = TINY["gpt2"], init("gpt2")
    write(model, params, [1], 30)
    write(model, params, [1, 2], 3)
    before = set(used)
    assert before
    for prompt, num_tokens in [([1, 2, 3], 30), ([1], 1), ([5, 4, 3, 2], 9), (range(9), 11)]:
        write(model, params, list(prompt), num_tokens)
    assert used == before


@pytest.mark.parametrize(
    ("prompt_length", "num_tokens", "size"),
    [(1, 10, 64), (8, 120, 128), (8, 121, 256), (9, 999, 300)],
)
def test_the_cache_has_the_size_that_is_needed(monkeypatch, prompt_length, num_tokens, size):
    sizes = []

    def for_model(function, static, args):
        sizes.append((static[1], args[1] if args[1] is None else args[1].shape))
        raise InterruptedError

    monkeypatch.setattr(programs, "for_model", for_model)
    made = generate(
        TINY["gpt2"],
        {},
        np.zeros(prompt_length, np.int32),
        num_tokens=num_tokens,
        context_length=300,
        sampling=GREEDY,
        seed=0,
    )
    with pytest.raises(InterruptedError):
        next(made)
    assert sizes == [(size, None if prompt_length == 1 else (1, 64))]


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [1, 2, MANY_SAMPLES])
@pytest.mark.parametrize("name", ["multi_head_attention", "transformer_decoder", "gpt2"])
def test_no_token_copies_a_cache(monkeypatch, name, num_samples):
    """In the compiled program: it took a third of a token's time."""
    compiled, texts = programs.for_model, {}

    def recorded(function, *args):
        program = compiled(function, *args)
        texts[function.__name__] = program.as_text()
        return program

    monkeypatch.setattr(programs, "for_model", recorded)
    model = TINY[name].clone(context_length=64)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    write(model, params, [1], 3, num_samples=num_samples, context_length=64)
    made = re.findall(r"= f32\[([\d,]+)\]\S* ([\w-]+)\(", texts["_write_cached"])
    of_a_cache = {
        operation
        for shape, operation in made
        if math.prod(map(int, shape.split(","))) == num_samples * 64 * model.embed_dim
    }
    assert "dynamic-update-slice" in of_a_cache
    assert not of_a_cache & {"copy", "transpose"}


LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), [0, 1, 2, 3]),
        (Sampling(top_k=2), [1, 3]),
        (Sampling(top_k=9), [0, 1, 2, 3]),
        (Sampling(top_p=0.35), [1]),
        (Sampling(top_p=0.65), [1, 3]),
        (Sampling(top_p=0.0001), [1]),
        (Sampling(top_k=3, top_p=0.75), [1, 3]),  # 0.4, 0.3 and 0.2 of 0.9: 0.78 suffice.
        (Sampling(temperature=0.1, top_p=0.9), [1]),  # The temperature comes first.
    ],
)
def test_limits_keep_the_likeliest(sampling, kept):
    limited = limit_logits(sampling, LOGITS)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(limited)), kept)


def test_draws_follow_the_probabilities_at_a_temperature():
    sampling = Sampling(temperature=2.0)
    rngs = jax.random.split(jax.random.key(0), 20_000)
    drawn = jax.vmap(lambda rng: sample_token(sampling, LOGITS, rng))(rngs)
    frequencies = np.bincount(drawn, minlength=4) / len(rngs)
    np.testing.assert_allclose(frequencies, jax.nn.softmax(LOGITS / 2), atol=0.015)


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-38, 1e-320])
def test_a_temperature_of_zero_or_near_it_takes_the_likeliest(temperature):
    rngs = jax.random.split(jax.random.key(0), 20)
    draw = partial(sample_token, Sampling(temperature), LOGITS)
    np.testing.assert_array_equal(jax.vmap(draw)(rngs), 1)
