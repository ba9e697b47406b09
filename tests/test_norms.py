"""Norms of layers: those of the gradient and of the checkpoint, logged where they are due."""

import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import run_folder
import train
from reporting import page, runs
from runtime.devices import data_mesh
from tests.stages import TINY
from tests.test_train import arrays, lines, smoke
from training import norms, optimizer
from training.loss import cross_entropy
from training.schedule import Schedule
from training.setup import set_up
from training.step import create_state, initial_metrics, train_steps

# All that changes how a gradient is computed; AdamW and resumption are in tests/test_train.py.
CHANGES = {
    "model.dropout_rate": 0.0,
    "train.num_steps": 11,
    "train.log_norms_every_steps": 4,
    "checkpoint.every_steps": 1,
    "checkpoint.keep": 99,
    "eval.every_steps": 0,
    "sample.num_tokens": 0,
    "optimizer.name": "muon",
    "train.remat": "blocks",
    "train.loss_chunks": 2,
    "train.grad_accumulation_steps": 2,
}


def norms_in(line):
    return {key: value for key, value in line.items() if key.startswith("norms/")}


def norms_of(tree, kind):
    """The oracle: by NumPy, from {path: array}."""
    squares = {}
    for path, leaf in tree.items():
        layer = re.match(r"block_\d+/[a-z_]+|embed/[a-z]+|final_norm", path)[0]
        squares[layer] = squares.get(layer, 0.0) + np.square(np.asarray(leaf, np.float64)).sum()
    return {f"norms/{kind}/{layer}": square**0.5 for layer, square in squares.items()}


def gradient_at(config, workdir, step):
    """The gradient of update `step`, from the checkpoint before it, by jax.grad of the loss."""
    setup = set_up(config)
    params = unflatten_dict(arrays(workdir, step - 1)[0], sep="/")
    first, batches_KBT = next(iter(setup.train_batches(step - 1, step)))
    gradient = jax.jit(jax.grad(cross_entropy), static_argnums=1)(
        params, setup.model.apply, batches_KBT[step - 1 - first], jax.random.key(0)
    )
    return flatten_dict(gradient, sep="/")


@pytest.mark.long
def test_norms_are_those_of_the_gradient_and_of_the_checkpoint(tmp_path, capsys):
    config = smoke("gpt2", **CHANGES)
    train.train_and_evaluate(config, tmp_path / "run")
    assert "norms/" not in capsys.readouterr().out  # The terminal has no room for them.
    # Sweeps refuse the name of any other metric.
    record = run_folder.read_lines(tmp_path / "run" / run_folder.METRICS)
    names = {name for line in record for name in line}
    others = {name for name in names if not name.startswith(run_folder.NORMS)}
    assert others == set(run_folder.METRIC_NAMES) - {"train/mfu", "train/skipped_updates"}
    measured = {line["step"]: norms_in(line) for line in lines(tmp_path / "run")}
    assert [step for step in measured if measured[step]] == [4, 8, 11]
    for step in (4, 11):
        expected = norms_of(gradient_at(config, tmp_path / "run", step), "grad")
        expected |= norms_of(arrays(tmp_path / "run", step)[0], "param")
        assert measured[step] == pytest.approx(expected, rel=1e-4)
    assert {"norms/grad/block_0/attention", "norms/param/embed/token"} <= set(measured[11])
    of_all = {line["step"]: line["train/grad_norm"] for line in lines(tmp_path / "run")[1:]}
    for step in (4, 8, 11):
        layers = [norm for key, norm in measured[step].items() if "/grad/" in key]
        assert np.linalg.norm(layers) == pytest.approx(of_all[step], rel=1e-5)
    # The report compares what all runs have.
    (run,), unread = runs.read_runs([tmp_path / "run"])
    assert not unread and "norms/" not in page.render([run], [], [])


@pytest.mark.slow
def test_a_step_without_norms_has_nothing_of_them(monkeypatch):
    """No operation of norms is in its program, and no result."""
    tx = optimizer.build(smoke("bigram").optimizer)
    state = create_state(TINY["gpt2"], tx, 0, data_mesh(1))
    batches_KBT = np.zeros((3, 2, 6), np.int32)

    def lowered(layer_norms):
        metrics = initial_metrics(data_mesh(1), 0, layer_norms)
        args = state, metrics, batches_KBT, 0, 3, np.uint32(0), 0, Schedule()
        return jax.jit(train_steps.__wrapped__).lower(*args)

    with_norms = lowered(norms.initial(state.params))
    monkeypatch.setattr(norms, "measure", None)  # Calling it would fail.
    without = lowered(None)
    results = [len(jax.tree.leaves(program.out_info)) for program in (with_norms, without)]
    assert results == [len(jax.tree.leaves(state)) + 5, len(jax.tree.leaves(state)) + 4]
    assert without.as_text().count("stablehlo.sqrt") < with_norms.as_text().count("stablehlo.sqrt")


def test_a_gpt2_of_12_blocks_has_a_list_that_can_be_read():
    model = TINY["gpt2"].clone(num_layers=12)
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    layers = list(norms.by_layer(params))
    assert len(layers) == 12 * 4 + 3
    assert {"block_11/attention", "block_11/mlp_norm", "embed/position", "final_norm"} < set(layers)
