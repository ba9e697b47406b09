"""Divergence: where it began is named and kept, and updates can be skipped up to a limit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from safetensors.numpy import load_file

import run_folder
import train
from checkpoints import file_format
from runtime.devices import data_mesh
from runtime.errors import Diverged, UserError
from tests.stages import NO_DROPOUT, TINY, init
from tests.test_train import arrays, lines, smoke
from training import divergence
from training.loss import Objective, loss_and_gradient
from training.schedule import Schedule
from training.setup import Setup
from training.step import create_state, initial_metrics, train_steps

RUIN = {"optimizer.learning_rate": 1e30, "optimizer.grad_clip_norm": 0.0}
RATES = Schedule(peak=np.float32(0.1), final=np.float32(0.1))
BATCH_BT = np.random.default_rng(0).integers(0, 11, (4, 6)).astype(np.int32)


def test_the_order_of_layers_is_that_of_the_forward_pass():
    order = divergence.parameter_order(TINY["gpt2"])
    assert order[:4] == [
        "embed/token/embedding",
        "embed/position/embedding",
        "block_0/attention_norm/scale",
        "block_0/attention_norm/bias",
    ]
    assert order.index("block_0/mlp/down/kernel") < order.index("block_1/attention_norm/scale")
    assert order[-2:] == ["final_norm/scale", "final_norm/bias"]


@pytest.mark.long
def test_a_diverged_run_says_where_and_keeps_what_it_takes_to_look(tmp_path):
    config = smoke("gpt2", **RUIN, **{"eval.every_steps": 0, "checkpoint.every_steps": 1})
    with pytest.raises(Diverged) as error:
        train.train_and_evaluate(config, tmp_path / "run")
    message = str(error.value)
    assert "\n" not in message and "--config.train.max_skipped_updates" in message
    record = lines(tmp_path / "run")
    bad = record[-1]["step"]
    assert f"at step {bad}: training diverged" in message
    # What was kept repeats the update that was not finite, and is from before it.
    folder = tmp_path / "run/diverged"
    about = run_folder.read_json(folder / "checkpoint.json")["about"]
    assert about["step"] == bad
    assert about["gradient"] in message and about["gradient"]
    kept = {
        name: load_file(folder / f"{name}.safetensors") for name in ("params", "grads", "batch")
    }
    assert all(np.isfinite(leaf).all() for leaf in kept["params"].values())
    assert not all(np.isfinite(leaf).all() for leaf in kept["grads"].values())
    assert kept["batch"]["tokens"].shape == (4, 17)
    assert set(about["layers"]) == set(kept["grads"])
    for name, layer in about["layers"].items():
        assert layer["finite"] == np.isfinite(kept["grads"][name]).all()
    # The last good checkpoint is kept, and the run can be resumed with another limit.
    steps = sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    assert steps and steps[-1] < bad
    for leaf in arrays(tmp_path / "run", steps[-1])[0].values():
        assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_a_fresh_model_that_is_not_finite_is_told_before_any_update(tmp_path, monkeypatch):
    whole = Setup.initial_state

    def ruined(setup, params=None):
        state = whole(setup, params)
        if params is None:
            state = state.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
        return state

    monkeypatch.setattr(Setup, "initial_state", ruined)
    with pytest.raises(Diverged, match="val/loss is nan at step 0"):
        train.train_and_evaluate(smoke("bigram"), tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run")] == [0]
    kept = run_folder.read_json(tmp_path / "run/diverged/checkpoint.json")["about"]
    assert kept["step"] == 1 and kept["train/loss"] is None
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.long
@pytest.mark.parametrize("layer", ["block_1/mlp/up", "block_0/attention/value", "final_norm"])
def test_the_first_layer_is_found(tmp_path, layer):
    """An infinite weight ruins what comes after it, forward, and before it, backward."""
    params = init("gpt2")
    *path, last = layer.split("/")
    inner = params
    for part in path:
        inner = inner[part]
    inner[last] = jax.tree.map(lambda leaf: leaf.at[..., 0].set(jnp.inf), inner[last])
    state = TrainState.create(apply_fn=TINY["gpt2"].apply, params=params, tx=optax.sgd(0.1))
    finding = divergence.examine(
        TINY["gpt2"],
        state,
        BATCH_BT,
        seed=0,
        num_parts=2,
        objective=Objective(z_loss=0.1),
        mesh=data_mesh(2),
        workdir=tmp_path,
    )
    assert finding.output == layer
    assert finding.gradient


def test_a_gradient_too_large_to_add_up_is_said_to_be_so():
    """Each is finite, the sum of their squares is not: no layer is to blame."""
    assert "too large to add up" in str(divergence.Finding("", ""))


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_updates_that_are_not_finite_are_left_out_and_counted(allowed):
    """Of ten batches three are bad: their embedding row is not a number."""
    table = jnp.zeros((5, 5)).at[4].set(jnp.nan)
    batches_KBT = np.zeros((10, 2, 4), np.int32)
    for bad in (2, 5, 6):
        batches_KBT[bad] = 4

    def apply(variables, tokens_BT, *, train, rngs):
        return variables["params"]["table"][tokens_BT]

    def fresh():
        adam = optax.with_extra_args_support(optax.adam(0.1))
        state = TrainState.create(apply_fn=apply, params={"table": jnp.array(table)}, tx=adam)
        return state.replace(step=jnp.int32(0))

    def train_on(batches, max_skipped):
        nothing = initial_metrics(data_mesh(1))
        bounds = 0, len(batches)
        return train_steps(fresh(), nothing, batches, *bounds, np.uint32(0), max_skipped, RATES)

    state, metrics = train_on(batches_KBT, allowed)
    assert int(metrics.skipped) == min(allowed + 1, 3)
    # Stopped right at the first one too many, which is counted as a step.
    assert int(state.step) == {0: 3, 1: 6, 3: 10}[allowed]
    good = [k for k in range(int(state.step)) if k not in (2, 5, 6)]
    expected, _ = train_on(batches_KBT[good], 0)
    np.testing.assert_array_equal(state.params["table"][:4], expected.params["table"][:4])
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, expected.opt_state)
    # A dispatch after it makes no further update.
    again, same = train_steps(
        jax.tree.map(jnp.array, state),
        metrics,
        batches_KBT,
        0,
        10,
        np.uint32(0),
        allowed,
        RATES,
    )
    if allowed < 3:
        assert int(again.step) == int(state.step) and int(same.skipped) == allowed + 1


@pytest.mark.slow
def test_a_run_skips_up_to_its_limit_and_says_how_often(tmp_path):
    limit = {"train.max_skipped_updates": 3, "eval.every_steps": 0, "train.log_every_steps": 1}
    config = smoke("gpt2", **RUIN, **limit, **{"optimizer.warmup_steps": 2})
    with pytest.raises(Diverged, match="after 3 skipped steps: training diverged"):
        train.train_and_evaluate(config, tmp_path / "run")
    counts = [line["train/skipped_updates"] for line in lines(tmp_path / "run")[1:]]
    assert counts[-1] == 4 and counts == sorted(counts)
    assert 0 in counts


def test_a_limit_below_what_was_skipped_already_is_refused(tmp_path):
    config = smoke("bigram", **{"checkpoint.every_steps": 5})
    train.train_and_evaluate(config, tmp_path / "run")
    folder = tmp_path / "run/checkpoints/20"
    about = file_format.read_metadata(folder)
    about["progress"]["skipped"] = 2
    vouched = {"about": about, "sha256": file_format.digest_of(about)}
    run_folder.write_json(folder / "checkpoint.json", vouched)
    config.checkpoint.resume = True
    config.train.num_steps = 30
    with pytest.raises(UserError, match="max_skipped_updates=0: expected 2 or more"):
        train.train_and_evaluate(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("stage", TINY)
@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch(stage, parts):
    """To float tolerance, in loss, gradient and after an update."""
    model = TINY[stage].clone(**NO_DROPOUT) if stage == "gpt2" else TINY[stage]
    state = create_state(model, optax.adam(1e-2), 0, data_mesh(1))
    seed = np.uint32(0)
    compiled = jax.jit(loss_and_gradient, static_argnums=3)
    loss, grads = compiled(state, BATCH_BT, seed, 1)
    loss_in_parts, in_parts = compiled(state, BATCH_BT, seed, parts)
    assert float(loss_in_parts) == pytest.approx(float(loss), rel=1e-6)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6),
        grads,
        in_parts,
    )


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_a_z_loss_is_in_the_gradient_and_not_in_the_loss(parts):
    """Chowdhery et al. (2022), by hand; a bigram's logits are its parameters."""
    model, z_loss = TINY["bigram"], 0.3
    state = create_state(model, optax.adam(1e-2), 0, data_mesh(1))
    seed = np.uint32(0)
    loss, grads = loss_and_gradient(state, BATCH_BT, seed)
    same_loss, with_z = loss_and_gradient(state, BATCH_BT, seed, parts, Objective(z_loss))
    assert float(same_loss) == pytest.approx(float(loss), rel=1e-6)

    def z_of(table_VV):
        logits_BTV = table_VV[BATCH_BT[:, :-1]]
        return z_loss * jnp.mean(jnp.log(jnp.exp(logits_BTV).sum(axis=-1)) ** 2)

    (table_VV,), (gradient_VV,), (more_VV,) = map(jax.tree.leaves, (state.params, grads, with_z))
    expected = gradient_VV + jax.grad(z_of)(table_VV)
    np.testing.assert_allclose(more_VV, expected, rtol=1e-4, atol=1e-7)
    assert jnp.abs(more_VV - gradient_VV).max() > 1e-3


@pytest.mark.long
def test_parts_of_a_batch_drop_differently_and_repeatably():
    state = create_state(TINY["gpt2"], optax.adam(1e-2), 0, data_mesh(1))
    same_rows_BT = np.repeat(BATCH_BT[:1], 4, axis=0)
    seed = np.uint32(0)
    one = loss_and_gradient(state, same_rows_BT, seed, 2)[0]
    assert one == loss_and_gradient(state, same_rows_BT, seed, 2)[0]
    assert one != loss_and_gradient(state, same_rows_BT, seed, 4)[0]


@pytest.mark.long
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 2e-2)])
def test_a_run_in_parts_ends_where_a_whole_one_does(precision, tolerance, tmp_path, monkeypatch):
    monkeypatch.setenv("FAST_BFLOAT16", "true")
    for parts in (1, 4):
        changes = {"train.precision": precision, "train.grad_accumulation_steps": parts}
        train.train_and_evaluate(smoke("transformer_decoder", **changes), tmp_path / str(parts))
    environment = run_folder.read_json(tmp_path / "4/environment.json")
    assert environment["precision"] == precision
    for one, other in zip(lines(tmp_path / "1"), lines(tmp_path / "4"), strict=True):
        assert one == pytest.approx(other, rel=tolerance)
