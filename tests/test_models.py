"""The five stages: contract, causality, attention against a library, parameter trees, counts."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import models
from experiments import default
from inference import metrics
from models.gpt2_parts import PairEmbed
from models.gpt2_variants import VariantAttention, variant_attention
from models.layers import Dense, Dropout, reference
from models.layers.dense import product, tied_logits
from models.positions import alibi_slopes, apply_rope
from models.self_attention import causal_attention
from runtime.errors import UserError
from tests.stages import ATTENTIVE, CHANGED, TINY, VARIANT, T, V, init
from training import optimizer, schedule

B = 2
TOKENS_BT = np.random.default_rng(0).integers(0, V, (B, T))


@pytest.mark.parametrize("name", TINY)
def test_logits_are_float32_of_shape_btv_in_both_modes(name):
    params = init(name)
    for train in (False, True):
        rngs = {"dropout": jax.random.key(1)}
        logits = TINY[name].apply({"params": params}, TOKENS_BT, train=train, rngs=rngs)
        assert logits.shape == (B, T, V)
        assert logits.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ATTENTIVE, *CHANGED])
def test_no_logit_depends_on_a_later_token(name):
    """The gradient of a logit at t with respect to the token at s > t is exactly zero."""
    model, params = (TINY | CHANGED)[name], init(name, scale=3.0)
    onehot_BTV = jax.nn.one_hot(TOKENS_BT, V)

    def logit_at(onehot_BTV, t):
        # Embeddings as a product with one-hot rows, so that there is a gradient to take.
        table = params["embed"]["token"]["embedding"]
        captured = {}

        def embed(next_fun, args, kwargs, context):
            if context.module.name == "embed" and context.method_name == "__call__":
                captured["seen"] = True
                x_BTD = onehot_BTV @ table
                if position := params["embed"].get("position"):
                    x_BTD += position["embedding"][None]
                return x_BTD
            return next_fun(*args, **kwargs)

        with models.nn.intercept_methods(embed):
            logits = model.apply({"params": params}, TOKENS_BT)
        assert captured["seen"]
        return jax.nn.log_softmax(logits)[:, t, 0].sum()

    gradient = jax.jit(jax.grad(logit_at))
    for t in range(T):
        grad_T = jnp.abs(gradient(onehot_BTV, t)).sum(axis=(0, 2))
        assert (grad_T[t + 1 :] == 0).all()
        assert (grad_T[: t + 1] > 0).all()


def test_a_variant_with_default_settings_is_gpt2():
    """Equal parameter names, initial values, and logits with dropout."""
    ours, variant = TINY["gpt2"], VARIANT
    init_of = [model.init(jax.random.key(0), TOKENS_BT)["params"] for model in (ours, variant)]
    jax.tree.map(np.testing.assert_array_equal, *init_of)
    for train in (False, True):
        options = dict(train=train, rngs={"dropout": jax.random.key(1)})
        one, other = (
            model.apply({"params": init_of[0]}, TOKENS_BT, **options) for model in (ours, variant)
        )
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "options", "is_plain"),
    [
        ({}, {}, True),
        ({"dropout_rate": 0.3, "attention_dropout_rate": 0.0}, {}, True),
        ({"norm": "rms_norm"}, {}, False),
        ({"mlp_dim": 7}, {}, False),
        ({}, {"remat": True}, False),
        ({}, {"splits": True}, False),
    ],
)
def test_gpt2_is_built_from_its_own_file_unless_a_setting_changes(changes, options, is_plain):
    config = default.get_config().model
    config.update(name="gpt2", embed_dim=12, num_heads=3, num_layers=2, **changes)
    model = models.build(config, V, **options)
    assert type(model) is (models.GPT2 if is_plain else models.GPT2Variant)
    for key, value in (changes | options).items():
        assert key == "splits" or getattr(model, key) == value


def test_a_bigram_sees_one_token():
    params = init("bigram")
    logits = TINY["bigram"].apply({"params": params}, TOKENS_BT)
    np.testing.assert_array_equal(logits, params["next_token"]["embedding"][TOKENS_BT])


@pytest.mark.parametrize("heads", [(), (3,)], ids=["one head", "three heads"])
def test_attention_equals_the_library(heads):
    rngs = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(rng, (B, T, *heads, 4)) for rng in rngs)
    ours = causal_attention(q, k, v)
    shape = (B, T, *(heads or (1,)), 4)
    theirs = jax.nn.dot_product_attention(
        *(x.reshape(shape) for x in (q, k, v)), is_causal=True, implementation="xla"
    )
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), atol=1e-6)


@pytest.mark.slow
def test_shared_keys_and_values_equal_the_library():
    dense = partial(Dense, use_bias=False)
    model = VariantAttention(6, T, dense, dense, num_kv_heads=2)
    x_BTD = jax.random.normal(jax.random.key(0), (B, T, 24))
    params = model.init(jax.random.key(1), x_BTD)["params"]
    assert params["key"]["kernel"].shape == params["value"]["kernel"].shape == (24, 8)
    q, k, v = (
        (x_BTD @ params[name]["kernel"]).reshape(B, T, -1, 4) for name in ("query", "key", "value")
    )
    theirs = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla")
    expected = theirs.reshape(B, T, 24) @ params["out"]["kernel"]
    np.testing.assert_allclose(model.apply({"params": params}, x_BTD), expected, atol=1e-5)


def test_scores_with_rope_depend_only_on_the_distance():
    """Su et al. (2021), section 3.3; a rotation keeps norms."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(at, other):
        return (apply_rope(q, at) * apply_rope(k, other)).sum()

    for distance in (0, 1, 7):
        scores = [score(distance + start, start) for start in (0, 3, 50)]
        np.testing.assert_allclose(scores, scores[0], rtol=1e-4, atol=1e-5)
    assert abs(score(1, 0) - score(7, 0)) > 1e-3
    np.testing.assert_allclose(jnp.linalg.norm(apply_rope(q, 9)), jnp.linalg.norm(q), rtol=1e-6)
    np.testing.assert_array_equal(apply_rope(q, 0), q)
    rows = apply_rope(jnp.broadcast_to(q, (1, 4, 1, 8)), 3)
    np.testing.assert_allclose(rows[:, 2:3], apply_rope(q, 5), atol=1e-6)


@pytest.mark.parametrize("num_rows", [V * V, 7])
def test_a_pair_takes_the_row_of_its_number(num_rows):
    """Pairs have rows of their own if there are enough rows, and share them otherwise."""
    model = PairEmbed(num_rows, V, T, 12)
    params = model.init(jax.random.key(0), TOKENS_BT, 0)["params"]
    pairs = TOKENS_BT[:, :-1] * V + TOKENS_BT[:, 1:]
    found = model.apply({"params": params}, TOKENS_BT, 0)
    np.testing.assert_array_equal(found[:, 0], np.zeros((B, 12)))
    np.testing.assert_array_equal(found[:, 1:], params["table"]["embedding"][pairs % num_rows])
    assert num_rows < V * V or len(np.unique(found[:, 1:].reshape(-1, 12), axis=0)) == len(
        np.unique(pairs)
    )


@pytest.mark.slow
def test_alibi_subtracts_a_multiple_of_the_distance_from_the_scores():
    """Press et al. (2021): slopes 1/2, 1/4, ... for 8 heads; nothing at distance 0."""
    np.testing.assert_allclose(alibi_slopes(8), 0.5 ** np.arange(1, 9))
    np.testing.assert_allclose(alibi_slopes(3), [2**-4, 2**-8, 2**-2])
    rngs = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(rng, (B, 100, 3, 4)) for rng in rngs)
    distance_TT = np.arange(100)[:, None] - np.arange(100)
    scores = jnp.einsum("BTHK,BSHK->BHTS", q, k) / 2
    scores -= alibi_slopes(3)[None, :, None, None] * distance_TT[None, None]
    scores = jnp.where(distance_TT[None, None] >= 0, scores, -jnp.inf)
    expected = jnp.einsum("BHTS,BSHK->BTHK", jax.nn.softmax(scores), v)
    attend = partial(variant_attention, drop=None, slopes_H=alibi_slopes(3))
    np.testing.assert_allclose(attend(q, k, v), expected, atol=1e-5)
    last = attend(q[:, 60:], k, v, start=60)
    np.testing.assert_allclose(last, expected[:, 60:], atol=1e-5)


def test_capped_logits_stay_within_the_cap_and_keep_their_order():
    capped = VARIANT.clone(logit_soft_cap=2.0)
    params = init("gpt2", scale=10.0)
    plain_logits = TINY["gpt2"].apply({"params": params}, TOKENS_BT)
    logits = capped.apply({"params": params}, TOKENS_BT)
    assert jnp.abs(plain_logits).max() > 2 >= jnp.abs(logits).max()
    np.testing.assert_allclose(logits, 2 * jnp.tanh(plain_logits / 2), atol=1e-5)


def test_zero_init_starts_as_the_embedding_alone():
    model = VARIANT.clone(zero_init=True)
    params = model.init(jax.random.key(0), TOKENS_BT)["params"]
    x_BTD = params["embed"]["token"]["embedding"][TOKENS_BT]
    x_BTD += params["embed"]["position"]["embedding"][None]
    mean, variance = x_BTD.mean(-1, keepdims=True), x_BTD.var(-1, keepdims=True)
    expected = (x_BTD - mean) / jnp.sqrt(variance + 1e-5) @ params["embed"]["token"]["embedding"].T
    np.testing.assert_allclose(model.apply({"params": params}, TOKENS_BT), expected, atol=1e-5)


@pytest.mark.long
def test_logits_keep_their_size_in_a_wider_model_under_mup():
    """After three updates; without muP the logits grow with the width."""
    tokens_BT = np.random.default_rng(0).integers(0, V, (4, 16))

    def change(width, base):
        model = models.GPT2Variant(
            V, 16, embed_dim=width, num_heads=width // 8, num_layers=1, mup_base_dim=base
        )
        params = jax.jit(model.init)(jax.random.key(0), tokens_BT)["params"]

        def loss(params):
            logits_BTV = model.apply({"params": params}, tokens_BT)
            targets_BT = np.roll(tokens_BT, -1, 1)
            return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT).mean()

        config = default.get_config().optimizer
        config.update(learning_rate=0.01, warmup_steps=0)
        chosen = optimizer.build(config, width / base if base else 1.0)
        tx = chosen.with_rates(schedule.build(config, 10))
        state = tx.init(params)

        @jax.jit
        def step(params, state):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(3):
            params, state = step(params, state)
        return float(jnp.std(model.apply({"params": params}, tokens_BT)))

    assert change(256, 0) > 3 * change(32, 0)
    assert 0.5 < change(256, 32) / change(32, 32) < 2


def reference_attention(query, key, value):
    with reference.forced():
        return causal_attention(query, key, value)


@pytest.mark.slow
@pytest.mark.parametrize("heads", [(), (3,)], ids=["one head", "three heads"])
@pytest.mark.parametrize("length", [1, 100, 256, 1100])
def test_attention_in_blocks_and_its_gradients_equal_the_reference(length, heads):
    """One block, several, a shorter last one; and keys after the last query are ignored."""
    rngs = jax.random.split(jax.random.key(0), 4)
    q, k, v, weight = (jax.random.normal(rng, (B, length, *heads, 4)) for rng in rngs)

    def of(f):
        def weighted(*qkv):
            return (f(*qkv) * weight).sum()

        return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2)))

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, of(causal_attention)(q, k, v), of(reference_attention)(q, k, v))
    longer = [jnp.concatenate([x, jnp.full_like(x, 9.0)], axis=1) for x in (k, v)]
    close(jax.jit(causal_attention)(q, *longer), jax.jit(reference_attention)(q, k, v))


def test_most_masked_scores_are_not_computed():
    shape = jax.ShapeDtypeStruct((1, 256, 1, 64), jnp.float32)

    def flops(f):
        return jax.jit(f).lower(shape, shape, shape).cost_analysis()["flops"]

    # Two products of T x T x K numbers, two operations each.
    assert flops(reference_attention) >= 4 * 256**2 * 64
    assert flops(causal_attention) < 0.65 * flops(reference_attention)


def test_attention_from_a_start_equals_the_rows_of_the_whole():
    rngs = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(rng, (B, T, 3, 4)) for rng in rngs)
    whole = causal_attention(q, k, v)
    np.testing.assert_allclose(causal_attention(q[:, 3:], k, v, start=3), whole[:, 3:], atol=1e-6)


@pytest.mark.parametrize("width", [3, 6, 8, 30])
def test_product_and_its_gradients_equal_einsum(width):
    rngs = jax.random.split(jax.random.key(0), 2)
    x_BTD = jax.random.normal(rngs[0], (B, T, 4))
    kernel_DF = jax.random.normal(rngs[1], (4, width))
    definition = partial(jnp.einsum, "BTD,DF->BTF")

    def of(f):
        return jax.value_and_grad(lambda x, k: jnp.sin(f(x, k)).sum(), argnums=(0, 1))

    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        of(product)(x_BTD, kernel_DF),
        of(definition)(x_BTD, kernel_DF),
    )


@pytest.mark.parametrize("head", [product, lambda x, kernel: tied_logits(x, kernel.T)])
def test_the_gradient_of_wide_logits_is_not_copied_in_another_order(head):
    """The copy took 33 of 73 ms of a step with 4,096 tokens."""
    x_BTD, kernel_DV = jnp.ones((2, 48, 32)), jnp.ones((32, 640))
    targets_BT = jnp.ones((2, 48), jnp.int32)

    def loss(x_BTD, kernel_DV):
        return metrics.next_token_nats(head(x_BTD, kernel_DV), targets_BT).mean()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x_BTD, kernel_DV).compile().as_text()
    assert "f32[2,48,640]" in compiled
    assert not re.search(r"f32\[640,(96|2,48)\]|f32\[2,640,48\]", compiled)


@pytest.mark.slow
def test_a_product_of_bfloat16_factors_is_near_the_exact_one_and_so_are_its_gradients():
    """bfloat16 keeps 8 bits: rounding changes a factor by 2 ** -9 of itself at most."""
    rngs = jax.random.split(jax.random.key(0), 3)
    x_BTD = jax.random.normal(rngs[0], (B, T, 64))
    kernel_DF = jax.random.normal(rngs[1], (64, 6))
    weight_BTF = jax.random.normal(rngs[2], (B, T, 6))

    def of(f):
        return jax.value_and_grad(lambda x, k: (f(x, k) * weight_BTF).sum(), argnums=(0, 1))

    exact = of(product)(x_BTD, kernel_DF)
    with jax.default_matmul_precision("bfloat16"):
        rounded = of(product)(x_BTD, kernel_DF)
    for one, other in zip(jax.tree.leaves(exact), jax.tree.leaves(rounded), strict=True):
        assert other.dtype == jnp.float32
        assert 0 < jnp.linalg.norm(one - other) < 0.01 * jnp.linalg.norm(one)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.2, 0.5, 0.9])
def test_dropout_drops_each_activation_with_the_probability_it_was_given(rate):
    """At each byte of a random word, and independently of its neighbour."""
    x = jnp.arange(1.0, 38.0)  # No multiple of 4.

    @jax.jit
    def drop(rng):
        return Dropout(rate).apply({}, x, deterministic=False, rngs={"dropout": rng})

    draws = 20_000
    y = np.asarray(jax.vmap(drop)(jax.random.split(jax.random.key(0), draws)))
    is_kept = y != 0
    np.testing.assert_allclose(y[is_kept], (np.broadcast_to(x, y.shape) / (1 - rate))[is_kept])
    deviation = (rate * (1 - rate) / draws) ** 0.5
    np.testing.assert_allclose(is_kept.mean(axis=0), 1 - rate, atol=5 * deviation)
    together = (is_kept[:, 1:] & is_kept[:, :-1]).mean(axis=0)
    np.testing.assert_allclose(together, (1 - rate) ** 2, atol=5 * deviation)


def test_dropout_passes_gradients_where_it_kept():
    x = jnp.ones((B, 30))

    def total(x):
        y = Dropout(0.5).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
        return y.sum(), y

    gradient, y = jax.grad(total, has_aux=True)(x)
    np.testing.assert_array_equal(gradient, y)


def test_dropout_drops_in_training_only():
    model, params = TINY["gpt2"], init("gpt2")

    def logits(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, TOKENS_BT, train=train, rngs=rngs)

    assert (logits(0, train=True) != logits(1, train=True)).any()
    np.testing.assert_array_equal(logits(0, train=True), logits(0, train=True))
    np.testing.assert_array_equal(logits(0, train=False), logits(1, train=False))


def test_every_dropout_of_gpt2_drops():
    """The embedding, the attention weights and both sub-layers, each tested alone."""
    model, params = TINY["gpt2"], init("gpt2")
    rates = []

    def only(nth):
        seen = -1

        def intercept(next_fun, args, kwargs, context):
            nonlocal seen
            if type(context.module).__name__ != "Dropout" or context.method_name != "__call__":
                return next_fun(*args, **kwargs)
            seen += 1
            return next_fun(*args, **kwargs) if seen == nth else args[0]

        with models.nn.intercept_methods(intercept):
            logits = model.apply(
                {"params": params}, TOKENS_BT, train=True, rngs={"dropout": jax.random.key(0)}
            )
        return logits, seen + 1

    undropped = model.apply({"params": params}, TOKENS_BT)
    count = only(-1)[1]
    assert count == 1 + 3 * 2  # The embedding, and three in each of two blocks.
    for nth in range(count):
        rates.append(float(jnp.abs(only(nth)[0] - undropped).max()))
    assert min(rates) > 0


def shapes(params):
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(params).items()}


EMBED = {"embed/token/embedding": (V, 12), "embed/position/embedding": (T, 12)}
LOGITS = {"logits/kernel": (12, V), "logits/bias": (V,)}
HEADS = {f"attention/{name}/kernel": (12, 12) for name in ("query", "key", "value")}


def block_tree(attention_bias):
    tree = {f"attention/{name}/kernel": (12, 12) for name in ("query", "key", "value", "out")}
    if attention_bias:
        tree |= {f"attention/{name}/bias": (12,) for name in ("query", "key", "value", "out")}
    for norm in ("attention_norm", "mlp_norm"):
        tree |= {f"{norm}/scale": (12,), f"{norm}/bias": (12,)}
    tree |= {"mlp/up/kernel": (12, 48), "mlp/up/bias": (48,)}
    tree |= {"mlp/down/kernel": (48, 12), "mlp/down/bias": (12,)}
    tree = {f"block_{n}/{path}": shape for n in range(2) for path, shape in tree.items()}
    return tree | {"final_norm/scale": (12,), "final_norm/bias": (12,)}


@pytest.mark.parametrize(
    ("name", "tree"),
    [
        ("bigram", {"next_token/embedding": (V, V)}),
        ("self_attention", EMBED | HEADS | LOGITS),
        ("multi_head_attention", EMBED | HEADS | {"attention/out/kernel": (12, 12)} | LOGITS),
        ("transformer_decoder", EMBED | block_tree(attention_bias=False) | LOGITS),
        ("gpt2", EMBED | block_tree(attention_bias=True)),
    ],
)
def test_parameter_tree(name, tree):
    """The tree is a public interface: checkpoints, the decay mask, pretrained weights."""
    assert shapes(init(name)) == tree


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("small", 124_439_808),
        ("medium", 354_823_168),
        ("large", 774_030_080),
        ("xl", 1_557_611_200),
    ],
)
def test_published_sizes_count_exactly(size, count):
    from experiments import gpt2

    model = models.build(gpt2.get_config(size).model, 50257)
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == count


@pytest.mark.slow
def test_gpt2_initial_scales():
    """N(0, 0.02), over sqrt(2 L) for the layers that write to the residual stream."""
    model = models.GPT2(65, 64, embed_dim=128, num_heads=4, num_layers=8)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    for path, leaf in flatten_dict(params).items():
        if path[-1] == "bias":
            assert (leaf == 0).all()
        elif path[-1] == "scale":
            assert (leaf == 1).all()
        else:
            scaled = path[-2] in ("out", "down")
            np.testing.assert_allclose(leaf.std(), 0.02 / 4 if scaled else 0.02, rtol=0.05)


def test_more_tokens_than_the_context_is_an_error():
    with pytest.raises(ValueError, match=f"{T + 1} tokens do not fit into a context of {T}"):
        TINY["gpt2"].apply({"params": init("gpt2")}, np.zeros((1, T + 1), np.int32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "gpt3"}, "config.model.name='gpt3': expected one of bigram, self_attention"),
        ({"name": "gpt2", "num_heads": 3}, "embed_dim=16 is not divisible by --config.model.num_h"),
        ({"name": "gpt2", "num_layers": 0}, "config.model.num_layers=0: gpt2 needs at least 1"),
        ({"num_heads": 4}, "config.model.num_heads=4: bigram has none; leave it at 0"),
        (
            {"norm": "rms_norm"},
            "config.model.norm=rms_norm: bigram has none; leave it at 'layer_no",
        ),
        ({"name": "gpt2", "norm": "l2"}, "norm='l2': expected one of layer_norm, rms_norm"),
        (
            {"name": "gpt2", "num_kv_heads": 3},
            "num_kv_heads=3: expected a divisor of --config.model.n",
        ),
        (
            {"name": "gpt2", "positions": "rotary", "embed_dim": 12},
            "config.model.positions='rotary' needs an even head width, and "
            "--config.model.embed_dim=12 / num_heads=4 is 3: change one of them",
        ),
        ({"context_length": 0}, "config.model.context_length=0: bigram needs at least 1"),
        ({"without": "mask"}, "--config.model.without='mask': bigram has none"),
        (
            {"name": "gpt2", "without": "attention"},
            "'attention': expected one of initialization, layer_norm, mask, mlp, positions, proj",
        ),
        (
            {"name": "gpt2", "without": "mask", "positions": "rotary"},
            "--config.model.without='mask' leaves an idea out of the published GPT-2: expected no "
            "other changes to it, --config.train.remat='none' and --config.train.loss_chunks=1",
        ),
    ],
)
def test_build_names_what_does_not_fit(changes, message):
    config = default.get_config().model
    if "name" in changes:
        config.update(embed_dim=16, num_heads=4, num_layers=2)
    config.update(changes)
    with pytest.raises(UserError) as error:
        models.build(config, V)
    assert message in str(error.value)
