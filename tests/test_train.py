"""Training: resumed equals uninterrupted, dispatches do not matter, what a run leaves behind."""

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import models
import run_folder
import train
from checkpoints.manager import Checkpoints
from inference.evaluation import evaluate
from input_pipeline import corpus
from models.layers import target, tied_logits
from models.self_attention import causal_attention
from runtime import devices
from runtime.devices import data_mesh
from runtime.errors import Diverged, UserError
from tests.command import run
from tests.stages import ATTENTIVE, TINY, VARIANT, V, init
from training import optimizer, topology
from training import setup as training_setup
from training.due import Due, milestones
from training.loss import Objective, loss_and_gradient
from training.schedule import Schedule
from training.setup import set_up
from training.step import create_state, gradient_flops, initial_metrics, train_steps, update_flops

STAGES = list(TINY)
# What a clock measures differs between two runs; nothing else may.
CLOCK = ("seconds", "train/tokens_per_second", "train/mfu")


def smoke(stage, **changes):
    config = importlib.import_module(f"experiments.{stage}").get_config("smoke")
    config.tracking.wandb_mode = "disabled"
    config.update_from_flattened_dict(changes)
    return config


def lines(workdir, name=run_folder.METRICS):
    return [
        {key: value for key, value in line.items() if key not in CLOCK}
        for line in run_folder.read_lines(workdir / name)
    ]


def arrays(workdir, step):
    """Every array of a checkpoint, as saved."""
    folder = workdir / "checkpoints" / str(step)
    return [load_file(folder / f"{name}.safetensors") for name in ("params", "opt_state")]


def resume_from(step, finished, workdir, config):
    """Resumes a copy of `finished` as a kill before it saved anything past `step` leaves it."""
    shutil.copytree(finished, workdir)
    for folder in (workdir / "checkpoints").iterdir():
        if int(folder.name) > step:
            shutil.rmtree(folder)
    config.checkpoint.resume = True
    train.train_and_evaluate(config, workdir)


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "fast_bfloat16"), [*((stage, "false") for stage in STAGES), ("gpt2", "true")]
)
def test_resumed_equals_uninterrupted(stage, fast_bfloat16, tmp_path, monkeypatch):
    """Bit for bit: parameters, optimizer state, metrics and samples, dropout included."""
    monkeypatch.setenv("FAST_BFLOAT16", fast_bfloat16)
    changes = {"eval.every_steps": 7, "train.log_every_steps": 3, "checkpoint.keep": 9}
    config = smoke(stage, **changes, **{"train.log_norms_every_steps": 6})
    train.train_and_evaluate(config, tmp_path / "whole")
    resume_from(7, tmp_path / "whole", tmp_path / "resumed", config)
    jax.tree.map(
        np.testing.assert_array_equal,
        arrays(tmp_path / "whole", 20),
        arrays(tmp_path / "resumed", 20),
    )
    assert lines(tmp_path / "whole") == lines(tmp_path / "resumed")
    samples = run_folder.SAMPLES
    assert lines(tmp_path / "whole", samples) == lines(tmp_path / "resumed", samples)
    assert len(lines(tmp_path / "whole")) == 1 + 6 + 2 + 1  # Step 0, by 3, 7 and 14, the last.


@pytest.mark.long
def test_the_fresh_model_s_scores_are_those_before_the_first_update(tmp_path, capsys):
    config = smoke("gpt2", **{"train.log_every_steps": 1, "train.num_steps": 2})
    train.train_and_evaluate(config, tmp_path / "run")
    setup = set_up(config)
    first, second, _ = run_folder.read_lines(tmp_path / "run" / run_folder.METRICS)
    assert (first["step"], first["seconds"], second["step"]) == (0, 0.0, 1)
    scores = setup.evaluate(setup.initial_state().params)
    assert {key: first[key] for key in scores} == scores and scores["val/loss"] > 4
    sample = next(run_folder.read_lines(tmp_path / "run" / run_folder.SAMPLES))
    assert sample["step"] == 0
    assert sample["text"] == setup.write_sample(setup.initial_state().params)
    told = [line for line in capsys.readouterr().out.splitlines() if "step" in line or "up" in line]
    assert told[0].startswith("first update made") and told[1].startswith("step 0/2")


@pytest.mark.slow
def test_a_step_s_flops_are_counted_after_the_first_update_and_once(tmp_path, monkeypatch):
    calls = []

    def noting(name, function):
        return lambda *arguments: calls.append(name) or function(*arguments)

    count, report = training_setup.count_flops, train.Run.report_fresh
    monkeypatch.setattr(training_setup, "count_flops", noting("count", count))
    monkeypatch.setattr(train.Run, "report_fresh", noting("report the fresh model", report))
    config = smoke("gpt2", **{"train.log_every_steps": 1, "train.num_steps": 3})
    train.train_and_evaluate(config, tmp_path / "run")
    assert calls == ["report the fresh model", "count"]
    of_step = set_up(config).flops_per_step().total
    assert [line["train_flops"] / of_step for line in lines(tmp_path / "run")] == [0, 1, 2, 3]


@pytest.mark.long
def test_a_resumed_run_draws_no_parameters(tmp_path, monkeypatch):
    config = smoke("gpt2", **{"train.num_steps": 3})
    train.train_and_evaluate(config, tmp_path / "run")
    config.train.num_steps, config.checkpoint.resume = 5, True
    monkeypatch.delattr("training.setup.Setup.initial_state")
    train.train_and_evaluate(config, tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 3, 5]


@pytest.fixture(scope="module")
def saved_at_each_step(tmp_path_factory):
    """A run and its config, none of whose checkpoints is removed."""
    config = smoke("self_attention", **{"checkpoint.every_steps": 1, "checkpoint.keep": 99})
    workdir = tmp_path_factory.mktemp("saved") / "run"
    train.train_and_evaluate(config, workdir)
    return workdir, config


@pytest.mark.long
@settings(max_examples=6, deadline=None)
@given(st.sets(st.integers(1, 19), min_size=2, max_size=2))
def test_a_run_can_be_killed_after_any_two_steps(saved_at_each_step, tmp_path_factory, steps):
    whole, config = saved_at_each_step
    workdir = tmp_path_factory.mktemp("killed")
    for number, step in enumerate(sorted(steps)):
        before = workdir / str(number - 1) if number else whole
        resume_from(step, before, workdir / str(number), config.copy_and_resolve_references())
    for one, other in zip(arrays(whole, 20), arrays(workdir / "1", 20), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    for name in (run_folder.METRICS, run_folder.SAMPLES):
        assert lines(whole, name) == lines(workdir / "1", name)


@pytest.mark.long
def test_the_number_of_steps_a_dispatch_changes_nothing(tmp_path):
    for count in (1, 4, 50):
        config = smoke("gpt2", **{"train.steps_per_dispatch": count})
        train.train_and_evaluate(config, tmp_path / str(count))
    for count in (4, 50):
        assert lines(tmp_path / "1") == lines(tmp_path / str(count))
        jax.tree.map(
            np.testing.assert_array_equal,
            arrays(tmp_path / "1", 20),
            arrays(tmp_path / str(count), 20),
        )


@pytest.mark.long
def test_what_a_run_leaves_behind(tmp_path):
    config = smoke("transformer_decoder")
    train.train_and_evaluate(config, tmp_path / "run")
    by_step = {line["step"]: line for line in run_folder.read_lines(tmp_path / "run/metrics.jsonl")}
    assert sorted(by_step) == [0, 5, 10, 15, 20]
    # The untrained model is measured, and near a uniform guess.
    assert abs(by_step[0]["val/loss"] - math.log(65)) < 0.5
    assert not any(name.startswith("train/") for name in by_step[0])
    for step, line in by_step.items():
        assert line["tokens_seen"] == step * 4 * 16
        assert ("val/loss" in line) == (step % 10 == 0)
        if step:
            assert line["train_flops"] / step == by_step[5]["train_flops"] / 5 > 0
            assert line["train/grad_norm"] > 0
    summary = run_folder.read_json(tmp_path / "run/summary.json")
    assert summary["status"] == "done"
    assert summary["step"] == 20
    assert summary["val/loss"] == by_step[20]["val/loss"]
    best = min((line["val/loss"], step) for step, line in by_step.items() if "val/loss" in line)
    assert (summary["best/val/loss"], summary["best/step"]) == best
    model = models.build(config.model, 65)
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert summary["num_params"] == sum(leaf.size for leaf in jax.tree.leaves(tree))
    tables = [tree["params"][name] for name in ("embed", "logits")]
    outside = sum(leaf.size for leaf in jax.tree.leaves(tables))
    assert summary["num_params_without_embeddings"] == summary["num_params"] - outside
    samples = list(run_folder.read_lines(tmp_path / "run/samples.jsonl"))
    assert [sample["step"] for sample in samples] == [0, 10, 20]
    assert all(len(sample["text"]) == 40 for sample in samples)
    assert json.loads((tmp_path / "run/config.json").read_text())["train"]["num_steps"] == 20
    environment = run_folder.read_json(tmp_path / "run/environment.json")
    assert environment["jax"] == jax.__version__
    # An allow-list: nothing of the process's environment gets in.
    assert set(environment) == {
        *("command", "started", "git_commit", "git_dirty", "python", "jax", "flax"),
        *("device", "platform", "num_devices", "mesh", "num_cpus", "precision"),
        "text_sha256",
    }


@pytest.mark.long
def test_the_best_checkpoint_outlives_newer_ones_and_a_resumption(tmp_path):
    """A learning rate that ruins the model: the first evaluation stays the best."""
    changes = {
        "eval.every_steps": 4,
        "checkpoint.keep": 1,
        "optimizer.learning_rate": 30.0,
        "optimizer.warmup_steps": 10,
    }
    config = smoke("gpt2", **changes)
    train.train_and_evaluate(config, tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert (checkpoints.find("best")[0], checkpoints.find("latest")[0]) == (4, 20)
        with pytest.raises(UserError, match="checkpoint '8': expected one of best, latest, 4, 20"):
            checkpoints.find("8")
    shutil.rmtree(tmp_path / "run/checkpoints/20")
    config.checkpoint.resume = True
    train.train_and_evaluate(config, tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert (checkpoints.find("best")[0], checkpoints.find("latest")[0]) == (4, 20)


@pytest.mark.long
def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path):
    changes = {
        "optimizer.learning_rate": 1e30,
        "optimizer.warmup_steps": 10,
        "eval.every_steps": 1,
        "optimizer.grad_clip_norm": 0.0,
    }
    config = smoke("gpt2", **changes)
    with pytest.raises(
        Diverged, match=r"^\w+/\w+ is (nan|inf) at step \d+: training diverged; the first layer "
    ):
        train.train_and_evaluate(config, tmp_path / "run")
    summary = run_folder.read_json(tmp_path / "run/summary.json")
    assert summary["status"] == "diverged"
    with Checkpoints(tmp_path / "run") as checkpoints:
        last = checkpoints.latest_step()
    assert 0 < last < summary["step"]
    for leaf in arrays(tmp_path / "run", last)[0].values():
        assert np.isfinite(leaf).all()


@pytest.mark.long
def test_a_bigram_trained_long_is_the_table_of_counts(tmp_path):
    """The closed form: log-probabilities of a bigram are log(count / row total)."""
    text = "the bigram model counts what follows what, and nothing else. " * 40
    (tmp_path / "text.txt").write_text(text)
    changes = {
        "data.name": "text",
        "data.path": str(tmp_path / "text.txt"),
        "optimizer.learning_rate": 0.3,
        "train.num_steps": 1500,
        "train.batch_size": 256,
        "train.steps_per_dispatch": 100,
        "train.log_every_steps": 500,
        "eval.every_steps": 0,
        "sample.every_steps": 0,
        "sample.prompt": "the",
    }
    config = smoke("bigram", **changes)
    train.train_and_evaluate(config, tmp_path / "run")
    data = corpus.load(config.data)
    size = data.tokenizer.vocab_size
    counts_VV = np.zeros((size, size))
    np.add.at(counts_VV, (data.train[:-1], data.train[1:]), 1)
    probs_VV = counts_VV / counts_VV.sum(axis=1, keepdims=True)
    table = arrays(tmp_path / "run", 1500)[0]["next_token/embedding"]
    np.testing.assert_allclose(jax.nn.softmax(table), probs_VV, atol=0.02)
    # And so is its loss: the conditional entropy of the counts.
    present = counts_VV > 0
    entropy = -(counts_VV[present] * np.log(probs_VV[present])).sum() / counts_VV.sum()
    params = {"next_token": {"embedding": table}}
    score = evaluate(
        models.Bigram(size),
        params,
        data.train,
        data.tokenizer.token_bytes,
        batch_size=64,
        context_length=8,
        mesh=data_mesh(64),
    )
    assert score["loss"] == pytest.approx(entropy, abs=0.005)


@pytest.mark.parametrize(
    ("num_steps", "steps"),
    [
        (1000, [10, 20, 50, 100, 200, 500]),
        (20, [1, 2, 4, 10]),
        (1, [1]),
        (333, [3, 7, 17, 33, 67, 166]),
    ],
)
def test_milestones_are_shares_of_the_steps(num_steps, steps):
    assert milestones(num_steps) == steps
    due = Due(num_steps, log=0, evaluate=0, sample=0, save=0, evaluate_at=steps, sample_at=steps)
    seen = [0]
    while seen[-1] < num_steps:
        seen.append(due.next(seen[-1], num_steps))
    assert seen == sorted({0, 1, *steps, num_steps})  # The first step is a dispatch of its own.
    for is_due in (due.evaluate, due.sample, due.save):
        assert {step for step in seen[1:] if is_due(step)} == {*steps, num_steps}
    assert not Due(10, log=0, evaluate=0, sample=None, save=0, sample_at=[5]).sample(5)


def test_due_is_every_so_many_steps_and_at_the_last():
    due = Due(10, log=4, norms=5, evaluate=0, sample=3, save=0)
    steps = range(11)
    assert [step for step in steps if due.log(step)] == [4, 5, 8, 10]
    assert [step for step in steps if due.norms(step)] == [5, 10]
    assert [step for step in steps if due.evaluate(step)] == [0, 10]
    assert [step for step in steps if due.sample(step)] == [0, 3, 6, 9, 10]
    assert [step for step in steps if due.save(step)] == [10]
    for step in range(10):
        expected = min(later for later in range(step + 1, 11) if due.at(later))
        assert due.next(step, 10) == expected
        assert due.next(step, step + 1) == step + 1
    without = Due(10, log=4, evaluate=0, sample=3, save=0)
    assert not any(without.norms(step) for step in steps) and not without.log(5)
    assert not any(
        Due(10, log=0, evaluate=0, sample=0, save=0, save_minutes=9).save(n) for n in [5]
    )
    assert Due(10, log=0, evaluate=0, sample=0, save=0, save_minutes=1e-12).save(5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample.prompt": ""}, "config.sample.prompt is empty"),
        ({"sample.prompt": "é"}, "character 'é' at position 0"),
        ({"sample.top_p": 0.0}, "config.sample.top_p=0.0: expected above 0 and at most 1"),
        ({"sample.top_k": -2}, "config.sample.top_k=-2: expected 0 (no limit) or more"),
        ({"sample.temperature": -1.0}, "config.sample.temperature=-1.0: expected 0 or more"),
        ({"model.context_length": 1_040_000}, "--config.model.context_length=1040000: expected"),
        ({"train.precision": "int8"}, "config.train.precision='int8': expected 'float32' or 'bf"),
        ({"tracking.wandb_mode": "on"}, "config.tracking.wandb_mode"),
        (
            {"tracking.sinks": ("wandb", "mlflow")},
            "--config.tracking.sinks='mlflow': expected some of wandb, tensorboard",
        ),
    ],
)
def test_a_bad_config_is_refused_before_the_folder_is_touched(changes, message, tmp_path):
    with pytest.raises(UserError) as error:
        train.train_and_evaluate(smoke("bigram", **changes), tmp_path / "run")
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_can_not_be_used_is_refused(tmp_path):
    config = smoke("bigram")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; a run needs a folder"):
        train.train_and_evaluate(config, tmp_path / "file")
    with pytest.raises(UserError, match="can't be written"):
        train.train_and_evaluate(config, tmp_path / "file/below")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds files but no run: name a new or an empty folder"):
        train.train_and_evaluate(config, tmp_path / "mine")
    train.train_and_evaluate(config, tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run"):
        train.train_and_evaluate(config, tmp_path / "run")
    changed = smoke("bigram", **{"checkpoint.resume": True, "optimizer.learning_rate": 0.5})
    with pytest.raises(UserError, match=r"optimizer\.learning_rate was \S+ and is 0\.5"):
        train.train_and_evaluate(changed, tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_a_finished_run_resumes_to_nothing(tmp_path, capsys):
    config = smoke("bigram")
    train.train_and_evaluate(config, tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    config.checkpoint.resume = True
    train.train_and_evaluate(config, tmp_path / "run")
    assert "finished at step 20 already" in capsys.readouterr().out
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_flops_are_those_of_the_products(stage):
    """6 FLOPs per weight and token, 12 T D a layer for attention (PaLM paper, app. B)."""
    B, T, D, L = 8, 32, 64, 3
    sizes = dict(context_length=T, embed_dim=D, num_heads=4, num_layers=L)
    model = models.STAGES[stage]
    model = model(V, **{key: sizes[key] for key in sizes if key in model.__dataclass_fields__})
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    flops = gradient_flops(model, (B, T + 1))
    assert flops > 0
    if stage in ATTENTIVE:
        layers = L if "num_layers" in model.__dataclass_fields__ else 1
        weights = sum(
            leaf.size
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if path[-1].key == "kernel"
        )
        weights += V * D if stage == "gpt2" else 0  # The tied head.
        products = 6 * weights * B * T + 12 * layers * B * T * T * D
        # XLA counts the rest as well: softmax, norms, activations, the loss.
        assert 1 <= flops / products < 1.25


@pytest.mark.slow
def test_a_run_goes_on_if_it_is_given_more_steps(tmp_path):
    config = smoke("bigram")
    train.train_and_evaluate(config, tmp_path / "run")
    config.checkpoint.resume = True
    config.train.num_steps = 31
    train.train_and_evaluate(config, tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 5, 10, 15, 20, 25, 30, 31]
    summary = run_folder.read_json(tmp_path / "run/summary.json")
    assert (summary["step"], summary["status"]) == (31, "done")


@pytest.mark.parametrize(("num_steps", "steps"), [(1, [0, 1]), (3, [0, 3]), (7, [0, 5, 7])])
def test_runs_shorter_than_anything_is_due_are_measured_at_both_ends(num_steps, steps, tmp_path):
    config = smoke("bigram", **{"train.num_steps": num_steps})
    train.train_and_evaluate(config, tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run")] == steps
    assert {"train/loss", "val/loss"} <= set(lines(tmp_path / "run")[-1])


def test_a_run_that_died_before_its_first_checkpoint_starts_anew(tmp_path):
    config = smoke("bigram")
    train.train_and_evaluate(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    config.checkpoint.resume = True
    train.train_and_evaluate(config, tmp_path / "run")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_run_that_died_before_its_summary_gets_one(tmp_path):
    config = smoke("bigram")
    train.train_and_evaluate(config, tmp_path / "run")
    before = run_folder.read_json(tmp_path / "run/summary.json")
    (tmp_path / "run/summary.json").unlink()
    config.checkpoint.resume = True
    train.train_and_evaluate(config, tmp_path / "run")
    after = run_folder.read_json(tmp_path / "run/summary.json")
    assert after | {"wall_seconds": 0} == before | {"wall_seconds": 0}
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 5, 10, 15, 20]


@pytest.mark.slow
def test_a_run_is_not_resumed_on_another_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("what follows what, and nothing else. " * 40)
    changes = {"data.name": "text", "data.path": str(text), "sample.prompt": "w"}
    config = smoke("bigram", **changes)
    train.train_and_evaluate(config, tmp_path / "run")
    before = (tmp_path / "run/tokenizer.json").read_bytes()
    text.write_text("WHAT FOLLOWS WHAT, AND NOTHING ELSE. w" * 40)
    config.checkpoint.resume = True
    config.train.num_steps = 30
    with pytest.raises(UserError, match=r"was trained on a text with sha256 \w+, and now it is"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run/tokenizer.json").read_bytes() == before


@pytest.mark.parametrize("stage", ATTENTIVE)
def test_the_optimizer_s_flops_are_those_of_its_rule(stage):
    """AdamW: 10 to 25 a parameter. Muon: the products of its iteration, and little else."""
    model, optimizer_config = TINY[stage], smoke("bigram").optimizer
    params = jax.tree.map(jnp.shape, init(stage), is_leaf=lambda x: hasattr(x, "shape"))
    shapes = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, tuple))
    count = sum(math.prod(shape) for shape in shapes)
    tx = optimizer.build(optimizer_config)
    assert 10 * count < update_flops(model, tx) < 25 * count
    with optimizer_config.unlocked():
        optimizer_config.name = "muon"
    tx = optimizer.build(optimizer_config)
    inside = jax.tree.leaves(optimizer.hidden_mask(init(stage)))
    products = sum(
        5 * (4 * min(shape) ** 2 * max(shape) + 2 * min(shape) ** 3)
        for shape, is_matrix in zip(shapes, inside, strict=True)
        if is_matrix
    )
    assert products < update_flops(model, tx) < 1.5 * products + 30 * count


@pytest.mark.slow
def test_flops_are_counted_by_the_cpu_s_compiler_whatever_the_run_trains_on(monkeypatch):
    """Plugins of other devices do not count, and a GPU's attention kernel counts as nothing."""
    counted = gradient_flops(TINY["gpt2"], (2, 6))
    chosen = []
    monkeypatch.setattr(
        jax, "default_device", lambda device: chosen.append(device.platform) or nullcontext()
    )
    with topology.compiling(), jax.default_matmul_precision("bfloat16"):
        assert gradient_flops(TINY["gpt2"], (2, 6)) == counted
    assert chosen == ["cpu"]


PARALLEL = """
import sys, jax
from pathlib import Path
from tests.test_train import parallel
import train
assert jax.device_count() == 2
train.train_and_evaluate(parallel(), Path(sys.argv[1]))
"""
TWO_DEVICES = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"


def parallel():
    """Returns the config of a run whose batches two devices can share."""
    changes = {"model.dropout_rate": 0.0, "sample.every_steps": 0, "train.measure_peak": True}
    return smoke("gpt2", **changes, **{"train.log_norms_every_steps": 5})


@pytest.mark.long
@pytest.mark.parametrize(("fast_bfloat16", "tolerance"), [("false", 1e-4), ("true", 2e-2)])
def test_two_devices_train_as_one(fast_bfloat16, tolerance, tmp_path, monkeypatch):
    """Two virtual devices split each batch and end where one device does."""
    monkeypatch.setenv("FAST_BFLOAT16", fast_bfloat16)
    train.train_and_evaluate(parallel(), tmp_path / "1")
    subprocess.run(
        [sys.executable, "-c", PARALLEL, str(tmp_path / "2")],
        env={**os.environ, "XLA_FLAGS": TWO_DEVICES},
        check=True,
    )
    assert run_folder.read_json(tmp_path / "1/environment.json")["num_devices"] == 1
    environment = run_folder.read_json(tmp_path / "2/environment.json")
    assert environment["num_devices"] == 2
    assert environment["precision"] == {"true": "bfloat16", "false": "float32"}[fast_bfloat16]
    for one, two in zip(lines(tmp_path / "1"), lines(tmp_path / "2"), strict=True):
        assert one == pytest.approx(two, rel=tolerance)
    last = list(run_folder.read_lines(tmp_path / "2/metrics.jsonl"))[-1]
    assert 0 < last["train/mfu"] < 1  # Of both devices' peak, measured.
    result = run("evaluate.py", f"--workdir={tmp_path / '2'}", XLA_FLAGS=TWO_DEVICES)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["val/loss"] == pytest.approx(two["val/loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["bigram", "gpt2"])  # The layers between are in gpt2.
def test_a_step_lowers_for_cuda(stage):
    """No GPU is needed to compile for one as far as StableHLO; it says so if a path can't."""
    tx = optimizer.build(smoke("bigram").optimizer)
    state = create_state(TINY[stage], tx, 0, data_mesh(2))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    batches_KBT = jax.ShapeDtypeStruct((3, 2, 6), jnp.int32)
    exported = jax.export.export(train_steps, platforms=["cuda"])(
        shapes,
        initial_metrics(data_mesh(1)),
        batches_KBT,
        0,
        3,
        seed=0,
        max_skipped=0,
        schedule=Schedule(),
    )
    assert exported.platforms == ("cuda",)


@pytest.mark.slow
def test_attention_lowers_for_cuda_as_one_kernel():
    """In bfloat16, forward and backward; tests/test_gpu_compile.py compiles whole steps."""
    shape = jax.ShapeDtypeStruct((2, 64, 3, 8), jnp.float32)

    def lowered():
        gradient = jax.jit(jax.grad(lambda *qkv: causal_attention(*qkv).sum(), argnums=(0, 1, 2)))
        allowed = [
            jax.export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaSoftmax{which}")
            for which in ("", "Backward")
        ]
        export = jax.export.export(gradient, platforms=["cuda"], disabled_checks=allowed)
        return export(shape, shape, shape).mlir_module()

    with topology.compiling():
        with jax.default_matmul_precision("bfloat16"):
            kernels = lowered()
        assert "__cudnn$fmhaSoftmax" in kernels and "__cudnn$fmhaSoftmaxBackward" in kernels
        assert "__cudnn" not in lowered()  # In float32 there is no such kernel.
    with jax.default_matmul_precision("bfloat16"):
        assert "__cudnn" not in lowered()  # Nor for the CPU.


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "z_loss"),
    [
        ({"dropout_rate": 0.5}, 0.0),
        ({"dropout_rate": 0.0}, 0.1),
        ({"dropout_rate": 0.0, "mup_base_dim": 6, "logit_soft_cap": 2.0}, 0.0),
    ],
)
def test_chunks_of_the_loss_and_recomputed_blocks_change_nothing(changes, z_loss):
    """In float32, within 1e-5: losses, and gradients relative to their largest number."""
    model = VARIANT.clone(context_length=6, **changes)
    batch_BT = np.random.default_rng(0).integers(0, V, (2, 7)).astype(np.int32)

    def measured(remat, num_chunks):
        state = create_state(model.clone(remat=remat), optax.sgd(0.1), 0, data_mesh(1))
        params = jax.tree.map(lambda leaf: 5 * leaf, state.params)  # Far from a flat guess.
        gradient_of = partial(loss_and_gradient, objective=Objective(z_loss, num_chunks))
        return jax.jit(gradient_of)(state.replace(params=params), batch_BT, np.uint32(3))

    loss, gradient = measured(remat=False, num_chunks=1)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    alone = [(True, 1), (False, 2)] if changes == {"dropout_rate": 0.5} else []
    for remat, num_chunks in (*alone, (True, 6)):
        found = measured(remat, num_chunks)
        assert float(found[0]) == pytest.approx(float(loss), rel=1e-5)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=0, atol=1e-5 * largest), found[1], gradient
        )


@pytest.mark.long
def test_the_logits_of_all_chunks_are_never_there_at_once():
    """By XLA's plan; that of recomputed blocks is in tests/test_gpu_compile.py, for a CPU's
    compiler undoes them.
    """
    model = models.GPT2Variant(4096, 64, embed_dim=16, num_heads=2, num_layers=1)
    state = create_state(model, optax.sgd(0.1), 0, data_mesh(1))
    batch_BT = np.zeros((8, 65), np.int32)

    def temporary_bytes(num_chunks):
        objective = Objective(num_chunks=num_chunks)
        gradient = jax.jit(lambda state: loss_and_gradient(state, batch_BT, 0, 1, objective))
        return gradient.lower(state).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < 0.5 * temporary_bytes(1)


def test_a_tied_head_for_a_gpu_is_the_same_product():
    x_BTD, table_VD = (
        jax.random.normal(jax.random.key(n), (2, 5, 7 + 4 * n))[..., :7] for n in (0, 1)
    )
    table_VD = table_VD[0]

    def value_and_gradient():
        return jax.value_and_grad(
            lambda x, table: jnp.sin(tied_logits(x, table)).sum(), argnums=(0, 1)
        )(x_BTD, table_VD)

    expected = value_and_gradient()
    with target.compiling_for(target.Target("gpu", 9.0)):
        # Sums of products: those near zero differ by more than their size allows.
        close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(close, value_and_gradient(), expected)


@pytest.mark.slow
def test_attention_has_a_dropout_rate_of_its_own():
    tokens_BT = np.random.default_rng(0).integers(0, V, (2, 5)).astype(np.int32)
    params = init("gpt2", scale=5.0)

    def logits(rng, **rates):
        model = TINY["gpt2"].clone(**rates)
        rngs = {"dropout": jax.random.key(rng)}
        return np.asarray(model.apply({"params": params}, tokens_BT, train=True, rngs=rngs))

    both = logits(0, dropout_rate=0.5, attention_dropout_rate=0.5)
    assert (both != logits(0, dropout_rate=0.5, attention_dropout_rate=0.0)).any()
    alone = dict(dropout_rate=0.0, attention_dropout_rate=0.5)
    assert (logits(0, **alone) != logits(1, **alone)).any()
    none = dict(dropout_rate=0.0, attention_dropout_rate=0.0)
    np.testing.assert_array_equal(logits(0, **none), logits(1, **none))


@pytest.mark.parametrize(("asked", "built"), [(-1.0, 0.3), (0.0, 0.0), (0.1, 0.1)])
def test_attention_drops_as_all_else_unless_its_rate_is_set(asked, built):
    config = smoke("gpt2", **{"model.dropout_rate": 0.3, "model.attention_dropout_rate": asked})
    model = models.build(config.model, V)
    assert (model.dropout_rate, model.attention_dropout_rate) == (0.3, built)


def test_a_chunk_of_batches_is_used_after_the_next_has_been_sent():
    made = []

    def chunks():
        for first in range(3):
            made.append(first)
            yield first, np.full((2, 4, 3), first)

    seen = []
    for first, batches_KBT in devices.send_ahead(chunks(), 4, data_mesh(4)):
        seen.append((first, max(made)))
        assert isinstance(batches_KBT, jax.Array) and (batches_KBT == first).all()
    assert seen == [(0, 1), (1, 2), (2, 2)]
    assert list(devices.send_ahead(iter(()), 4, data_mesh(4))) == []


def test_samples_of_no_tokens_are_not_written(tmp_path):
    train.train_and_evaluate(smoke("bigram", **{"sample.num_tokens": 0}), tmp_path / "none")
    train.train_and_evaluate(smoke("bigram"), tmp_path / "some")
    assert not (tmp_path / "none/samples.jsonl").exists()
    assert lines(tmp_path / "some", "samples.jsonl")
    assert lines(tmp_path / "none") == lines(tmp_path / "some")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_budget_of_flops_sets_the_updates(stage, tmp_path):
    """The run makes as many as it has room for, and its record says so."""
    of_step = set_up(smoke(stage)).flops_per_step().total
    config = smoke(stage, **{"train.flops": 12.9 * of_step, "train.num_steps": 3})
    train.train_and_evaluate(config, tmp_path / "run")
    assert run_folder.read_json(tmp_path / "run/config.json")["train"]["num_steps"] == 12
    last = lines(tmp_path / "run")[-1]
    assert (last["step"], last["train_flops"]) == (12, pytest.approx(12 * of_step))


@pytest.mark.long
def test_a_run_with_a_budget_equals_the_one_with_its_number_of_updates(tmp_path):
    of_step = set_up(smoke("gpt2")).flops_per_step().total
    budget = smoke("gpt2", **{"train.flops": 20.1 * of_step, "train.num_steps": 7})
    train.train_and_evaluate(budget, tmp_path / "budget")
    train.train_and_evaluate(smoke("gpt2"), tmp_path / "updates")
    assert lines(tmp_path / "budget") == lines(tmp_path / "updates")


def test_a_larger_budget_continues_a_finished_run(tmp_path):
    of_step = set_up(smoke("bigram")).flops_per_step().total
    for updates in (5, 9):
        config = smoke(
            "bigram", **{"train.flops": (updates + 0.1) * of_step, "checkpoint.resume": True}
        )
        train.train_and_evaluate(config, tmp_path / "run")
    assert lines(tmp_path / "run")[-1]["step"] == 9


def test_a_budget_below_one_update_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"train.flops=10 is less than one update, which takes \d"):
        train.train_and_evaluate(smoke("gpt2", **{"train.flops": 10.0}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
