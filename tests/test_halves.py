"""A training step that two cores of a CPU divide: each computes half of every batch."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_folder
import train
from benchmarks import workloads
from models import sharding
from runtime import devices, process
from tests.test_train import arrays, lines, resume_from, smoke
from training import halves, muon, plan
from training.compiled import compile_step
from training.loss import objective_and_loss
from training.setup import Chunk, set_up
from training.step import draw_params

STEPS = 5
CHANGES = {
    "train.steps_per_dispatch": STEPS,
    "train.num_steps": STEPS,
    "train.batch_size": 8,
    # Adam divides a gradient by its size: of one near zero a rounding error is a whole step.
    "optimizer.name": "sgd",
}
NO_DROPOUT = {"model.dropout_rate": 0.0}


@pytest.fixture
def divides_all(monkeypatch):
    """Steps of little work are divided, too."""
    monkeypatch.setattr(sharding, "LEAST_WORK", 0)


def is_divided(setup):
    return setup.pair(plan.step_shapes(setup)) is not None


def trained(setup, num_steps=STEPS, batches_KBT=None):
    """Returns the state after some steps, and the metrics of the last one."""
    setup = setup._replace(cache_key=None)
    steps = setup.compile_train_steps(plan.step_shapes(setup))
    state = setup.initial_state()
    metrics = setup.initial_metrics(state.params)
    chunk = next(setup.chunks(0))
    if batches_KBT is not None:
        chunk = Chunk(0, STEPS, devices.split_batches(batches_KBT, setup.mesh))
    state, metrics = steps(state, metrics, chunk, 0, num_steps)
    return setup.on_mesh(state), metrics.fetch()


def both_ways(setup, monkeypatch, **kwargs):
    """Returns what `trained` does, divided and by one device."""
    monkeypatch.setattr(sharding, "LEAST_WORK", -1)
    assert is_divided(setup)
    divided = trained(setup, **kwargs)
    monkeypatch.setattr(sharding, "LEAST_WORK", np.inf)
    assert not is_divided(setup)
    return divided, trained(setup, **kwargs)


def assert_alike(divided, whole, tolerance=1e-5):
    for one, two in zip(jax.tree.leaves(divided), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)
        assert getattr(one, "sharding", None) == getattr(two, "sharding", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("bigram", {}),
        ("self_attention", {}),
        ("multi_head_attention", {}),
        ("transformer_decoder", {}),
        ("gpt2", NO_DROPOUT),
        ("gpt2", NO_DROPOUT | {"train.grad_accumulation_steps": 2}),
        ("gpt2", NO_DROPOUT | {"train.z_loss": 0.1, "train.loss_chunks": 2}),
        ("gpt2", NO_DROPOUT | {"train.log_norms_every_steps": 1}),
        ("gpt2", NO_DROPOUT | {"optimizer.name": "muon"}),
    ],
)
def test_halves_train_as_one_device_does(stage, changes, monkeypatch):
    setup = set_up(smoke(stage, **CHANGES | changes))
    assert_alike(*both_ways(setup, monkeypatch))


@pytest.mark.slow
def test_targets_that_do_not_count_are_weighed_over_both_halves(monkeypatch):
    """The first half has twice as many targets as the second one."""
    setup = set_up(smoke("gpt2", **CHANGES, **NO_DROPOUT))
    setup = setup._replace(objective=setup.objective._replace(is_marked=True))
    _, drawn = next(iter(setup.train_batches(0, STEPS)))
    batches_KBT = np.array(drawn, np.int32)
    batches_KBT[:, 4:, ::2] = ~batches_KBT[:, 4:, ::2]
    assert_alike(*both_ways(setup, monkeypatch, batches_KBT=batches_KBT))


@pytest.mark.slow
@pytest.mark.usefixtures("divides_all")
def test_each_half_draws_its_own_dropout():
    """The loss is the mean of both halves' losses, each with random numbers of its own."""
    setup = set_up(smoke("gpt2", **CHANGES, **{"model.dropout_rate": 0.5}))
    rows = next(iter(setup.train_batches(0, STEPS)))[1][:, :4]
    twice = np.concatenate([rows, rows], axis=1)
    _, metrics = trained(setup, num_steps=1, batches_KBT=twice)
    params = draw_params(setup.model, np.uint32(setup.seed))
    _, rng = jax.random.split(jax.random.key(np.uint32(setup.seed)))
    loss = jax.jit(
        lambda rng: objective_and_loss(
            params, setup.model.apply, jnp.int32(rows[0]), rng, setup.objective
        )[1]
    )
    first, second = (loss(jax.random.fold_in(jax.random.fold_in(rng, 0), i)) for i in (0, 1))
    assert abs(first - second) > 1e-4
    assert float(metrics.loss) == pytest.approx(float(first + second) / 2, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "collectives"),
    [("adamw", ["all-reduce"]), ("muon", ["all-gather", "all-reduce"])],
)
@pytest.mark.usefixtures("divides_all")
def test_a_step_has_one_reduction_and_muon_s_steps_are_shared_at_once(optimizer, collectives):
    setup = set_up(smoke("gpt2", **CHANGES | {"optimizer.name": optimizer}))
    text = compile_step(setup).text
    assert sorted(re.findall(r" (all-\w+?)(?:-start)?\(", text)) == collectives


@pytest.mark.slow
def test_each_half_orthogonalizes_half_of_the_matrices():
    pair = devices.halves(devices.data_mesh(2))
    draw = np.random.default_rng(0)
    shapes = [(4, 6), (8, 8), (4, 6), (6, 4), (8, 8)]
    matrices = [draw.standard_normal(shape, np.float32) for shape in shapes]
    calls = []

    def step(matrix):
        calls.append(matrix.shape)
        return muon.orthogonalize(matrix)

    def steps(matrices):
        return devices.shared_by_halves(step, matrices)

    whole = jax.P()
    divided = jax.shard_map(steps, mesh=pair, in_specs=whole, out_specs=whole, check_vma=False)
    found = jax.jit(divided)(matrices)
    assert sorted(calls) == sorted(shapes)  # Each in the branch of one half alone.
    for one, two in zip(found, map(muon.orthogonalize, matrices), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
        # Both devices have all of them.
        np.testing.assert_array_equal(one.addressable_data(0), one.addressable_data(1))
    # A single matrix is whole for both.
    (alone,) = jax.jit(divided)(matrices[:1])
    np.testing.assert_allclose(alone, found[0], atol=1e-5)


def kinds_of_fusions(setup):
    """Returns how many fusions of a step differ in more than the names of their values."""
    text = re.sub(r", metadata=\{.*?\}", "", compile_step(setup).text)
    found = re.findall(r"^%?\S*fused\S* \(.*?\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert len(found) > 100
    return len({re.sub(r"%[\w.-]+", "", body) for body in found})


@pytest.mark.slow
def test_halves_have_hardly_more_to_compile(monkeypatch):
    """XLA compiles fusions that are alike once; slices at two constants are not alike."""
    changes = {"optimizer.name": "adamw", "model.num_layers": 4}
    setup = set_up(smoke("gpt2", **CHANGES | NO_DROPOUT | changes))
    monkeypatch.setattr(sharding, "LEAST_WORK", np.inf)
    whole = kinds_of_fusions(setup)
    monkeypatch.setattr(sharding, "LEAST_WORK", 0)
    assert whole / 1.2 < kinds_of_fusions(setup) < 1.2 * whole


@pytest.mark.slow
@pytest.mark.usefixtures("divides_all")
def test_the_state_stays_on_both_halves_from_dispatch_to_dispatch():
    setup = set_up(smoke("gpt2", **CHANGES))._replace(cache_key=None)
    steps = setup.compile_train_steps(plan.step_shapes(setup))
    pair = devices.halves(setup.mesh)
    state = setup.initial_state()
    metrics = setup.initial_metrics(state.params)
    chunk = next(setup.chunks(0))
    for step in range(2):
        state, metrics = steps(state, metrics, chunk, step, step + 1)
        again = halves.spread(state, metrics, chunk.batches_KBT, pair)
        for one, two in zip(
            jax.tree.leaves((state, metrics)), jax.tree.leaves(again[:2]), strict=True
        ):
            assert one is two
    of_run = setup.on_mesh(state)
    assert setup.on_mesh(of_run) is of_run
    for one, two in zip(jax.tree.leaves(of_run), jax.tree.leaves(state), strict=True):
        assert one.sharding.device_set == set(setup.mesh.devices.flat)
        own, also = two.addressable_shards
        np.testing.assert_array_equal(own.data, also.data)
        assert one.unsafe_buffer_pointer() == own.data.unsafe_buffer_pointer()


@pytest.mark.slow
@pytest.mark.usefixtures("divides_all")
def test_a_resumed_run_of_halves_is_bit_for_bit_the_same(tmp_path):
    """With dropout, whose random numbers differ by half."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    changes = {"train.num_steps": 12, "checkpoint.every_steps": 6, "model.dropout_rate": 0.2}
    config = smoke("gpt2", **changes, **{"train.batch_size": 8})
    assert is_divided(set_up(config))
    train.train_and_evaluate(config, whole)
    resume_from(6, whole, parts, config)
    for one, two in zip(arrays(whole, 12), arrays(parts, 12), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, two)
    assert (
        lines(tmp_path / "whole")[-1]["train/loss"] == lines(tmp_path / "parts")[-1]["train/loss"]
    )
    assert run_folder.read_json(tmp_path / "whole/environment.json")["num_devices"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("divides_all")
def test_a_step_that_is_not_finite_is_skipped_by_both_halves():
    setup = set_up(smoke("gpt2", **CHANGES, **{"train.max_skipped_updates": STEPS}))
    state = setup.initial_state()
    broken = jax.tree.map(lambda leaf: leaf * np.nan, state.params)
    setup = setup._replace(cache_key=None)
    steps = setup.compile_train_steps(plan.step_shapes(setup))
    metrics = setup.initial_metrics(state.params)
    chunk = next(setup.chunks(0))
    state, metrics = steps(state.replace(params=broken), metrics, chunk, 0, STEPS)
    assert (int(metrics.skipped), int(state.step)) == (STEPS, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "changes", "divided"),
    [
        ("bigram", {}, False),  # No product.
        ("self_attention", {}, True),
        ("multi_head_attention", {}, True),
        ("transformer_decoder", {}, True),
        ("laptop", {}, True),
        ("laptop", {"train.batch_size": 13}, False),
        ("laptop", {"train.batch_size": 6, "train.grad_accumulation_steps": 2}, False),
        ("laptop", {"optimizer.name": "muon"}, True),
        ("baby-8", {}, True),
        ("small", {}, False),  # Two copies of 124 million parameters.
    ],
)
def test_the_steps_that_are_divided(workload, changes, divided):
    config = workloads.config_of(workload, smoke=False, num_tokens=1)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    assert is_divided(set_up(config)) is divided


SHOW = """
import os, sys
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:int(sys.argv[1])])
from runtime import process
process.configure_jax()
import jax
from runtime import devices
print(len(devices.found()), jax.device_count(), process.has_halves(), process.num_cores())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cores", "variables", "shown"),
    [
        (2, {}, "1 2 True 2"),
        (1, {}, "1 1 False 1"),  # As a sweep pins its workers.
        (2, {"JAX_NUM_CPU_DEVICES": "1"}, "1 1 False 2"),
        (2, {"JAX_NUM_CPU_DEVICES": "4"}, "4 4 False 2"),
        (2, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, "3 3 False 2"),
    ],
)
def test_devices_that_a_user_chose_are_kept(cores, variables, shown):
    result = subprocess.run(
        [sys.executable, "-c", SHOW, str(cores)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == shown.split()


KEPT = """
from runtime import process
process.configure_jax()
import jax
from runtime import programs
print(programs.cached("number", "of a test", (), lambda: jax.device_count()))
"""


@pytest.mark.slow
def test_one_core_and_two_share_what_they_keep(tmp_path):
    """After a ladder, whose runs have a core each, generate.py compiles nothing again."""

    def show(**variables):
        variables |= {"XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-c", KEPT]
        shown = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, check=True
        )
        return int(shown.stdout)

    assert show(JAX_NUM_CPU_DEVICES="1") == 1
    assert show() == 1  # Kept; made anew it would be 2.
    assert show(JAX_NUM_CPU_DEVICES="3") == 3


def test_a_mesh_of_several_devices_is_not_divided_again():
    two = np.asarray(jax.devices("cpu")[:2]).reshape(2, 1, 1)
    assert process.has_halves()
    assert devices.halves(jax.sharding.Mesh(two, devices.AXES)) is None
    assert devices.halves(devices.data_mesh(8)) is not None
