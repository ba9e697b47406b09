"""Training on a mesh of devices equals training on one; what is divided, and what is refused."""

import importlib
import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from safetensors.numpy import load_file

import models
import run_folder
from inference import metrics
from models import padding, sharding
from runtime.devices import AXES
from tests.command import ROOT, assert_refused, run
from tests.stages import TINY, V

ONE = [1, 1, 1]
MESHES = [[8, 1, 1], [1, 8, 1], [1, 1, 4], [2, 2, 2]]
# The compiler's warnings about layouts are not shown, as in a command.
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
# Shares of the state that a device holds; some biases and norms are whole.
SHARES = {(8, 1, 1): 1, (1, 8, 1): 1 / 8, (1, 1, 4): 1 / 4, (2, 2, 2): 1 / 4}


@pytest.mark.long
@pytest.mark.parametrize(
    ("optimizer", "stages"),
    # Muon's steps differ by the shapes of matrices: GPT-2 has those of the stages before, and a
    # table of bigrams has none.
    [("adamw", [*TINY]), ("muon", ["bigram", "gpt2"])],
    ids=["adamw", "muon"],
)
def test_the_stages_train_on_meshes_as_on_one_device(optimizer, stages):
    cases = [[stage, optimizer, shape] for stage in stages for shape in [ONE, *MESHES]]
    command = [sys.executable, "-m", "tests.meshes", json.dumps(cases)]
    result = subprocess.run(command, cwd=ROOT, env=QUIET, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    for (stage, _, shape), line in zip(cases, result.stdout.splitlines(), strict=True):
        many, case = json.loads(line), (stage, shape)
        if shape == ONE:
            one = many
            assert one["losses"][-1] < one["losses"][0]
            continue
        assert many["devices"] == np.prod(shape), case
        assert many["losses"] == pytest.approx(one["losses"], rel=1e-5), case
        if stage == "gpt2":
            assert many["val"] == pytest.approx(one["val"], rel=1e-5), case
            assert many["sample"] == one["sample"], case
        assert many["stays"], case  # Nothing is moved between two dispatches.
        assert many["restored"], case
        share = SHARES[tuple(shape)]
        assert share <= many["held"] / one["held"] < max(share + 0.1, 1.01), case


# Of a stage: a parameter, and how many parts a 2 x 3 x 5 mesh makes of each dimension. Sizes that
# these do not divide stay whole.
PARTS = {
    "bigram": {"next_token/embedding": (3, 5)},
    "self_attention": {
        "embed/token/embedding": (5, 3),
        "embed/position/embedding": (1, 3),
        "attention/query/kernel": (3, 5),
        "attention/key/kernel": (3, 5),
        "attention/value/kernel": (3, 5),
        "logits/kernel": (3, 5),
        "logits/bias": (5,),
    },
    "gpt2": {
        "embed/token/embedding": (5, 3),
        "embed/position/embedding": (1, 3),
        **{f"block_0/attention/{name}/kernel": (3, 5) for name in ("query", "key", "value")},
        **{f"block_0/attention/{name}/bias": (5,) for name in ("query", "key", "value")},
        "block_0/attention/out/kernel": (5, 3),
        "block_0/attention/out/bias": (1,),
        "block_0/attention_norm/scale": (1,),
        "block_0/attention_norm/bias": (1,),
        "block_0/mlp/up/kernel": (3, 5),
        "block_0/mlp/up/bias": (5,),
        "block_0/mlp/down/kernel": (5, 3),
        "block_0/mlp/down/bias": (1,),
        "block_0/mlp_norm/scale": (1,),
        "block_0/mlp_norm/bias": (1,),
        "final_norm/scale": (1,),
        "final_norm/bias": (1,),
    },
}
WIDE = {
    "bigram": models.Bigram(30),
    "self_attention": models.SelfAttentionModel(30, 6, embed_dim=30),
    "gpt2": models.GPT2(30, 6, 30, 3, 1),
}


@pytest.mark.parametrize("stage", PARTS)
def test_parameters_and_moments_are_divided_by_the_table(stage):
    params = padding.shapes_of(WIDE[stage])
    mesh = AbstractMesh((2, 3, 5), AXES)
    sizes = dict(mesh.shape) | {None: 1}
    for tree, prefix in ((params, ""), ({"mu": (params,)}, "mu/0/")):
        parts = {
            jax.tree_util.keystr(path, simple=True, separator="/"): tuple(
                sizes[axis] for axis in (*layout.spec, *[None] * leaf.ndim)[: leaf.ndim]
            )
            for (path, layout), leaf in zip(
                jax.tree_util.tree_leaves_with_path(sharding.layout(tree, mesh)),
                jax.tree.leaves(tree),
                strict=True,
            )
        }
        assert parts == {prefix + name: shape for name, shape in PARTS[stage].items()}


def test_sizes_and_ranks_that_do_not_fit_stay_whole():
    mesh = AbstractMesh((1, 2, 4), AXES)
    shape = jax.ShapeDtypeStruct
    tree = {
        "up": {"kernel": shape((6, 10), jnp.float32), "bias": shape((10,), jnp.float32)},
        # Adafactor keeps the mean squares of rows and columns alone.
        "v_row": {"up": {"kernel": shape((6,), jnp.float32)}},
        "update": {"kernel": shape((8, 8), jnp.float32)},
    }
    specs = jax.tree.map(lambda layout: tuple(layout.spec), sharding.layout(tree, mesh))
    assert specs == {
        "up": {"kernel": ("fsdp", None), "bias": ()},
        "v_row": {"up": {"kernel": ()}},
        "update": {"kernel": ()},
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["mesh.fsdp=3"],
            "--config.mesh.data=-1, --config.mesh.fsdp=3, --config.mesh.tensor=1: 3 "
            "does not divide JAX's 8 devices: expected a divisor, or",
        ),
        (["mesh.fsdp=-1"], "--config.mesh.tensor=1: expected -1 on one axis at most"),
        (["mesh.data=3", "mesh.fsdp=4"], "JAX has 8 devices, not 12: lower one of them"),
        (["mesh.data=0"], "--config.mesh.data=0: expected -1 (all devices that the other axes"),
        (
            ["train.batch_size=12"],
            "--config.train.batch_size=12 can't be divided among 8 devices "
            "(mesh.data x mesh.fsdp): expected a multiple of 8, 16 for example, or 6 devices, by "
            "--config.mesh.data=6 --config.mesh.fsdp=1",
        ),
        (
            ["train.batch_size=16", "train.grad_accumulation_steps=4", "mesh.fsdp=2"],
            "--config.train.batch_size=16 in 4 parts (--config.train.grad_accumulation_steps) "
            "can't be divided among 8 devices (mesh.data x mesh.fsdp): expected a multiple of 32, "
            "32 for example",
        ),
        (
            ["model.pad_vocab_to=64", "train.batch_size=8"],
            "--config.model.pad_vocab_to=64: expected 65 or more, for the tokenizer has so many",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_in_one_line(flags, message, tmp_path):
    flags = [f"--config.{flag}" for flag in flags]
    workdir = f"--workdir={tmp_path / 'run'}"
    result = run("main.py", "--config=gpt2:smoke", *flags, workdir, JAX_NUM_CPU_DEVICES="8")
    result.stderr = result.stderr.removeprefix("starting gpt2:smoke\n")
    assert_refused(result, message)
    assert not (tmp_path / "run").exists()


def losses_and_gradients(model, params, tokens_BT):
    """The nats of each target, and the gradient of their mean."""

    def mean(params):
        nats_BT = metrics.next_token_nats(
            model.apply({"params": params}, tokens_BT[:, :-1]), tokens_BT[:, 1:]
        )
        return nats_BT.mean(), nats_BT

    gradient, nats_BT = jax.grad(mean, has_aux=True)(params)
    return nats_BT, gradient


@pytest.mark.long
@pytest.mark.parametrize("stage", TINY)
def test_a_padded_vocabulary_changes_no_loss_gradient_or_sample(stage):
    config = importlib.import_module(f"experiments.{stage}").get_config("smoke").model
    plain = models.build(config, V)
    config.pad_vocab_to = V + 5
    padded = models.build(config, V)
    params = jax.device_get(plain.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
    more = padding.pad(params, padded)
    # Numbers in the padding, as training with weight decay leaves them, are hidden as well.
    wide = jax.tree.map(lambda corner, x: _overwritten(x + 3, corner), params, more)
    tokens_BT = jax.random.randint(jax.random.key(1), (3, config.context_length + 1), 0, V)
    nats_BT, gradient = losses_and_gradients(plain, params, tokens_BT)
    padded_nats_BT, padded_gradient = losses_and_gradients(padded, wide, tokens_BT)
    np.testing.assert_allclose(padded_nats_BT, nats_BT, rtol=1e-5)
    cut = padding.cut(padded_gradient, padded)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), cut, gradient)
    logits_BTV = padded.apply({"params": wide}, tokens_BT[:, :-1])
    assert logits_BTV.shape[-1] == V + 5 and np.isfinite(logits_BTV).all()
    assert (jax.nn.softmax(logits_BTV)[..., V:] == 0).all()
    assert padding.without_padding(padded) == plain
    jax.tree.map(np.testing.assert_array_equal, padding.cut(wide, padded), params)


def _overwritten(array, corner):
    """Returns `array` with its first entries those of `corner`."""
    array = np.array(array)
    array[tuple(map(slice, corner.shape))] = corner
    return array


@pytest.mark.long
def test_a_padded_model_is_opened_and_exported_without_its_padding(tmp_path):
    flags = ["--config=gpt2:smoke", "--config.model.pad_vocab_to=72", "--config.train.num_steps=5"]
    flags += ["--config.eval.every_steps=0", "--config.sample.every_steps=0"]
    workdir = f"--workdir={tmp_path / 'run'}"
    trained = run("main.py", *flags, workdir, WANDB_MODE="disabled")
    assert trained.returncode == 0, trained.stderr
    last = list(run_folder.read_lines(tmp_path / "run" / run_folder.METRICS))[-1]
    scores = run("evaluate.py", workdir, "--checkpoint=latest")
    assert json.loads(scores.stdout)["val/loss"] == pytest.approx(last["val/loss"], rel=1e-5)
    exported = run("export.py", workdir, f"--output={tmp_path / 'gpt2'}")
    assert exported.returncode == 0, exported.stderr
    saved = load_file(tmp_path / "run/checkpoints/5/params.safetensors")["embed/token/embedding"]
    there = load_file(tmp_path / "gpt2/model.safetensors")["transformer.wte.weight"]
    assert saved.shape[0] == 72
    np.testing.assert_array_equal(there, saved[:65])
    # Fine-tuned from them with another padding, the first loss is that of the run's end.
    more = ["--config=gpt2:finetune", f"--config.model.init_from={tmp_path / 'gpt2'}"]
    more += ["--config.model.pad_vocab_to=80", "--config.train.num_steps=1", "--config.seed=1"]
    more += ["--config.sample.every_steps=0", "--config.model.context_length=16"]
    tuned = run("main.py", *more, f"--workdir={tmp_path / 'tuned'}", WANDB_MODE="disabled")
    assert tuned.returncode == 0, tuned.stderr
    first = next(run_folder.read_lines(tmp_path / "tuned" / run_folder.METRICS))
    assert first["val/loss"] == pytest.approx(last["val/loss"], rel=1e-5)


@pytest.mark.long
def test_a_run_goes_on_with_another_mesh(tmp_path):
    """Every command line has eight devices, of which it uses as many as its mesh names."""
    # JAX has set the level in this process; a command sets it anew.
    variables = {"JAX_NUM_CPU_DEVICES": "8", "WANDB_MODE": "disabled", "TF_CPP_MIN_LOG_LEVEL": "2"}
    flags = ["--config=gpt2:smoke", "--config.train.precision=float32"]
    flags += ["--config.train.batch_size=8", "--config.model.pad_vocab_to=72"]
    # The same learning rate whatever the number of steps.
    flags += [f"--config.optimizer.{key}=0.01" for key in ("learning_rate", "final_learning_rate")]

    def train(name, num_steps, data, fsdp, tensor, *more):
        shape = f"--config.mesh.data={data} --config.mesh.fsdp={fsdp} --config.mesh.tensor={tensor}"
        result = run(
            "main.py",
            *(*flags, f"--config.train.num_steps={num_steps}", *shape.split(), *more),
            f"--workdir={tmp_path / name}",
            **variables,
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    whole = train("one", 20, 1, 1, 1)
    assert " · cpu, 7 more idle, float32 · " in whole
    first = train("many", 10, 2, 2, 2)
    assert " · 8 x cpu (data 2, fsdp 2, tensor 2), float32 · " in first
    second = train("many", 15, 1, 4, 1, "--config.checkpoint.resume=true")
    assert "mesh was data 2, fsdp 2, tensor 2 and is data 1, fsdp 4, tensor 1" in second
    assert " · 4 x cpu (fsdp 4), 4 more idle, float32 · " in second
    third = train("many", 20, 1, 1, 1, "--config.checkpoint.resume=true")
    assert "num_devices was 4 and is 1" in third
    one, many = (
        {line["step"]: line for line in run_folder.read_lines(tmp_path / name / "metrics.jsonl")}
        for name in ("one", "many")
    )
    for step in (10, 15, 20):
        assert many[step]["train/loss"] == pytest.approx(one[step]["train/loss"], rel=1e-4)
