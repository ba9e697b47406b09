"""Weights in Hugging Face's format: export and import round-trip; errors name what does not fit.

tests/interop/test_pretrained.py tests against transformers itself.
"""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

import harness
import models
import run_folder
from checkpoints import manager, pretrained
from experiments import default, gpt2
from input_pipeline import hugging_face as tokenizer_files
from input_pipeline import pretrained_tokenizer, tokenizers
from models import hugging_face
from runtime.errors import UserError
from tests.command import assert_refused
from tests.forked import run
from tests.stages import NO_DROPOUT
from tests.tokenizer_folders import KINDS

SMOKE = "--config=experiments/gpt2.py:smoke"
OFFLINE = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
TEXT = "the thing that they then thought; né €uro 𝄞 " * 50


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the smallest gpt2."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = run("main.py", SMOKE, f"--workdir={workdir}", **OFFLINE)
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.fixture(scope="module")
def exported(finished):
    """The folder that export.py writes from it."""
    output = finished.parent / "exported"
    words = [f"--workdir={finished}", f"--output={output}"]
    result = run("export.py", *words, **OFFLINE)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{output}\n"
    return output


@pytest.fixture
def copy(exported, tmp_path):
    """A copy to damage."""
    return shutil.copytree(exported, tmp_path / "copy")


def leaves(params):
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(params, sep="/").items()}


def change(folder, file="config.json", **changes):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))


@pytest.mark.slow
def test_export_and_import_are_the_identity_bit_for_bit(finished, exported):
    trained = manager.load(finished, "best")
    again = pretrained.open_model(exported, "latest")
    assert again.model == trained.model.clone(**NO_DROPOUT)
    ours, theirs = leaves(trained.params), leaves(again.params)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
    assert again.tokenizer.vocabulary == trained.tokenizer.vocabulary


@pytest.mark.slow
@pytest.mark.parametrize("change", ["", "untied", "relu_squared"])
def test_tensors_there_and_back(change):
    config = gpt2.get_config(change)
    config.model.update(embed_dim=12, num_heads=3, num_layers=2, mlp_dim=20)
    model = models.build(config.model, 11)
    params = model.init(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    tensors = hugging_face.from_params(params)
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (12, 36)
    assert tensors["transformer.h.0.mlp.c_fc.weight"].shape == (12, 20)
    assert ("lm_head.weight" in tensors) == (change == "untied")
    again = leaves(hugging_face.to_params(tensors, model))
    for path, leaf in leaves(params).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    settings = hugging_face.settings_to(config.model.to_dict(), 11, end_of_text=None)
    found = hugging_face.settings_from(settings, "config.json")
    assert found == {key: config.model[key] for key in found}


@pytest.mark.slow
def test_a_shorter_context_takes_the_first_positions(exported, tmp_path):
    config = gpt2.get_config("smoke")
    config.model.context_length = 7
    config.model.init_from = str(exported)
    model = models.build(pretrained.with_pretrained_shape(config, tmp_path).model, 65)
    params = pretrained.load_params(exported, model)
    whole = load_file(exported / "model.safetensors")["transformer.wpe.weight"]
    np.testing.assert_array_equal(params["embed"]["position"]["embedding"], whole[:7])


@pytest.mark.long
def test_generate_and_evaluate_take_a_folder_of_weights(finished, exported):
    for script, flags in (
        ("generate.py", ["--prompt=ROMEO:", "--num_tokens=30", "--seed=3"]),
        ("evaluate.py", ["--split=val"]),
    ):
        ours = run(script, f"--workdir={finished}", *flags, **OFFLINE)
        theirs = run(script, f"--workdir={exported}", *flags, **OFFLINE)
        assert ours.returncode == theirs.returncode == 0, ours.stderr + theirs.stderr
        if script == "generate.py":
            assert ours.stdout == theirs.stdout
        else:
            ours, theirs = json.loads(ours.stdout), json.loads(theirs.stdout)
            assert theirs["val/loss"] == pytest.approx(ours["val/loss"], abs=1e-5)


@pytest.mark.long
def test_fine_tuning_begins_with_the_weights_and_resumes_without_them(exported, finished, tmp_path):
    """The sizes and the first loss are the folder's, whatever the experiment sets."""
    flags = ["--config=experiments/gpt2.py:finetune", f"--config.model.init_from={exported}"]
    flags += ["--config.model.context_length=16", "--config.train.num_steps=6"]
    flags += ["--config.optimizer.warmup_steps=1", "--config.train.log_every_steps=1"]
    result = run("main.py", *flags, f"--workdir={tmp_path / 'run'}", **OFFLINE)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    before = json.loads((finished / "summary.json").read_text())
    assert lines[0]["val/loss"] == pytest.approx(before["best/val/loss"], abs=1e-5)
    assert lines[-1]["val/loss"] != lines[0]["val/loss"]
    config = json.loads((tmp_path / "run/config.json").read_text())["model"]
    assert (config["embed_dim"], config["num_layers"]) == (16, 2)
    # The run needs the folder no more.
    more = run("generate.py", f"--workdir={tmp_path / 'run'}", "--num_tokens=3", **OFFLINE)
    assert more.returncode == 0, more.stderr
    exported.rename(exported.with_name("moved"))
    again = [*flags[:-3], "--config.train.num_steps=8", *flags[-2:]]
    again += [f"--workdir={tmp_path / 'run'}", "--config.checkpoint.resume=true"]
    result = run("main.py", *again, **OFFLINE)
    exported.with_name("moved").rename(exported)
    assert result.returncode == 0, result.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").open()]
    assert steps[-1] == 8 and steps.count(0) == 1


def refused(folder, **changes):
    config = gpt2.get_config("smoke")
    config.model.init_from = str(folder)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        shaped = pretrained.with_pretrained_shape(config, folder / "no run")
        tokenizer = tokenizers.load(folder.parent / "tokenizer.json")
        model = models.build(shaped.model, tokenizer.vocab_size)
        pretrained.load(shaped.model.init_from, model, tokenizer)
    return str(error.value)


@pytest.fixture
def beside(copy, finished):
    """The copy, with the run's own tokenizer beside it."""
    shutil.copy(finished / "tokenizer.json", copy.parent)
    return copy


@pytest.mark.slow
def test_missing_surplus_and_misshapen_tensors_are_listed(beside):
    path = beside / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.0.ln_1.bias"]
    tensors["transformer.h.7.ln_1.bias"] = np.zeros(3, np.float32)
    tensors["transformer.wte.weight"] = np.zeros((64, 16), np.float32)
    # Masks of old files are no parameters, and the head of a tied model may be there twice.
    tensors["transformer.h.0.attn.bias"] = np.ones((1, 1, 16, 16), np.float32)
    tensors["lm_head.weight"] = np.zeros((65, 16), np.float32)
    save_file(tensors, path)
    message = refused(beside)
    assert message.startswith(f"{beside}: the tensors do not fit the config.json beside them")
    assert "-h.0.ln_1.bias [16]" in message
    assert "+h.7.ln_1.bias [3]" in message
    assert "wte.weight [64, 16], expected [65, 16]" in message
    assert "attn.bias" not in message and "lm_head" not in message


@pytest.mark.slow
def test_a_head_that_a_tied_model_would_not_use_is_refused(beside):
    """transformers does not tie it then; ours has to know before it builds the model."""
    path = beside / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}, path)
    config = gpt2.get_config("smoke")
    pretrained.load_params(beside, models.build(config.model, 65))
    save_file(tensors | {"lm_head.weight": 2 * tensors["transformer.wte.weight"]}, path)
    assert "lm_head.weight differs from wte.weight, which is the head of a" in refused(beside)
    change(beside, tie_word_embeddings=False)
    config.model.tied_embeddings = False
    pretrained.load_params(beside, models.build(config.model, 65))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None, "architectures": ["LlamaForCausalLM"]}, "model_type is None: expec"),
        ({"model_type": "llama"}, "model_type is 'llama': expected 'gpt2'"),
        ({"add_cross_attention": True}, "add_cross_attention is True: only False is supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}: only None"),
        (
            {"activation_function": "mish"},
            "activation_function is 'mish': expected one of gelu_new",
        ),
        ({"n_layer": 3}, "-h.2.ln_1.weight [16]"),
        ({"n_inner": None, "n_positions": None, "n_layer": 3}, "-h.2.ln_1.weight [16]"),
        ({"n_embd": "16"}, "n_embd is '16': expected int"),
        ({"n_head": 2.0, "tie_word_embeddings": 1}, "tie_word_embeddings is 1: expected bool"),
        ({"activation_function": ["gelu"]}, "activation_function is ['gelu']: expected str"),
        ({"n_positions": 9}, "config.model.context_length=16"),
        ({"vocab_size": 64}, "has 65 tokens that are not the 64 of the weights"),
    ],
)
def test_a_config_that_does_not_fit(beside, changes, message):
    change(beside, **changes)
    assert message in refused(beside)


GPT2S_OWN = [
    (key, value)
    for change in [*gpt2.CHANGES.values(), {"model.without": "mask"}]
    for key, value in change.items()
    if key.removeprefix("model.") in hugging_face.NOT_GPT2
]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), GPT2S_OWN)
def test_what_the_weights_were_not_trained_with_is_refused(beside, key, value):
    """Another architecture computes another function of the same weights."""
    assert f"config.{key} is {value!r}: GPT-2's is" in refused(beside, **{key: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"), [("model.activation", "swiglu"), ("model.tied_embeddings", False)]
)
def test_a_choice_that_is_not_the_weights_own_is_refused(beside, key, value):
    """The weights' own choice would silently replace it."""
    assert f"config.{key}={value}: the weights of --config.model.init_from have" in refused(
        beside, **{key: value}
    )


@pytest.fixture
def foreign(tmp_path):
    """A GPT-2 with a tokenizer of its own, which has [PAD], and with rows beyond it."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    KINDS["[PAD] named"](folder)
    config = gpt2.get_config("smoke+untied")
    params = models.build(config.model, 320).init(jax.random.key(0), np.zeros((1, 1), np.int32))
    settings = hugging_face.settings_to(config.model.to_dict(), 320, end_of_text=None)
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(hugging_face.from_params(params["params"]), folder / "model.safetensors")
    return folder


@pytest.mark.long
def test_a_folder_with_its_own_tokenizer_works_in_every_command(foreign, tmp_path, monkeypatch):
    """The run has the folder's tokenizer, resumes without the folder, and exports its rows."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    model = harness.open_run(foreign)
    assert model.logits("the[PAD]").shape[1] == model.tokenizer.vocab_size == 282
    assert model.generate("the[PAD]", 9).startswith("the[PAD]")
    before = model.evaluate()["val/loss"]
    changes = {"model.init_from": str(foreign), "model.context_length": 16, "train.num_steps": 4}
    changes |= {"optimizer.warmup_steps": 1, "sample.num_tokens": 0}
    run = harness.train("gpt2:finetune", tmp_path / "run", **changes)
    first = next(run_folder.read_lines(tmp_path / "run/metrics.jsonl"))
    assert first["val/loss"] == pytest.approx(before, abs=1e-5)
    foreign.rename(tmp_path / "gone")
    changes |= {"train.num_steps": 6, "checkpoint.resume": True}
    run = harness.train("gpt2:finetune", tmp_path / "run", **changes)
    assert run.step == 6
    assert run.evaluate()["val/loss"] == pytest.approx(run.summary["val/loss"], abs=1e-6)
    pretrained.export(tmp_path / "run", "latest", tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert len(tensors["transformer.wte.weight"]) == len(tensors["lm_head.weight"]) == 282
    again = harness.open_run(tmp_path / "out")
    assert again.generate("the[PAD]", 9) == run.generate("the[PAD]", 9)


def test_a_tokenizer_that_is_not_the_weights_own_is_refused(foreign, tmp_path):
    config = gpt2.get_config("smoke")
    config.model.init_from = str(foreign)
    for own in ("char", "bpe:282", f"folder:{foreign}"):
        config.data.tokenizer = own
        shaped = pretrained.with_pretrained_shape(config, tmp_path)
        assert shaped.data.tokenizer == f"folder:{foreign}"
    config.data.tokenizer = "gpt2"
    with pytest.raises(UserError, match=r"tokenizer='gpt2': the weights of .* their own, of 282"):
        pretrained.with_pretrained_shape(config, tmp_path)


@pytest.mark.parametrize("rows", [65, 72, 80, 128, 1024, 64, 66, 320])
def test_rows_without_a_tokenizer_beside_them(foreign, rows):
    """More than the tokens only up to a round number: otherwise another tokenizer is likelier."""
    (foreign / "tokenizer.json").unlink()
    change(foreign, vocab_size=rows)
    tokenizer = tokenizers.CharTokenizer("".join(map(chr, range(65, 130))))
    if rows in (64, 66, 320):
        with pytest.raises(UserError, match=f"65 tokens that are not the {rows} of the weights"):
            pretrained.check_tokenizer(foreign, tokenizer)
    else:
        pretrained.check_tokenizer(foreign, tokenizer)


@pytest.mark.long
def test_other_weights_than_a_run_began_with_are_refused(exported, copy, tmp_path):
    flags = ["--config=experiments/gpt2.py:smoke", f"--config.model.init_from={copy}"]
    flags += [f"--workdir={tmp_path / 'run'}", "--config.checkpoint.resume=true"]
    done = run("main.py", *flags, **OFFLINE)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["weights_sha256"] == digest
    # As if it had been killed before its first checkpoint.
    shutil.rmtree(tmp_path / "run/checkpoints")
    tensors = load_file(copy / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, copy / "model.safetensors")
    assert_refused(run("main.py", *flags, **OFFLINE), f"began with weights of sha256 {digest}")
    config = tmp_path / "run/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model": 3}))
    message = "config.json: "
    assert_refused(run("main.py", *flags, **OFFLINE), message)


@pytest.mark.slow
def test_another_tokenizer_of_the_same_size_is_refused(beside):
    tokenizers.CharTokenizer("".join(map(chr, range(200, 265)))).save(
        beside.parent / "tokenizer.json"
    )
    assert "has, for this text, 65 tokens that are not the 65 of the weights" in refused(beside)


@pytest.mark.slow
def test_no_weights_and_broken_weights(beside):
    (beside / "model.safetensors").write_bytes(b"no tensors")
    assert "the weights can't be read" in refused(beside)
    config = beside / "config.json"
    config.rename(beside / "aside")
    assert "holds no config.json: expected that of transformers' GPT-2" in refused(beside)
    (beside / "aside").rename(config)
    (beside / "model.safetensors").unlink()
    assert "holds no *.safetensors" in refused(beside)


def test_what_is_no_folder():
    for name, message in (
        ("./nowhere", "./nowhere is no folder: expected one with config.json"),
        ("README.md", "README.md is no folder"),
        ("no/such/name", "no/such/name is no folder"),
    ):
        with pytest.raises(UserError) as error:
            pretrained.find(name)
        assert message in str(error.value)


def test_a_name_of_the_hub_without_a_network(tmp_path):
    flags = [SMOKE, "--config.model.init_from=openai-community/gpt2"]
    result = run("main.py", *flags, f"--workdir={tmp_path / 'run'}", **OFFLINE)
    assert_refused(result, "openai-community/gpt2 is no folder here and could not be downloaded")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workdir=runs/x"], "Flag --output must have a value other than None"),
        (["--workdir=runs/x", "--output=runs/y", "onnx"], "unexpected argument 'onnx'"),
    ],
)
def test_export_takes_two_flags(words, message):
    assert_refused(run("export.py", *words), message)


@pytest.mark.slow
def test_export_refuses_settings_that_gpt2_lacks(finished, exported, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    words = [f"--workdir={workdir}"]
    taken = run("export.py", *words, f"--output={exported}")
    assert_refused(taken, f"--output={exported} is not empty: name a new folder")
    within = run("export.py", *words, "--output=README.md/x")
    assert_refused(within, "--output=README.md/x can't be written")
    model = default.get_config().model
    model.update(name="gpt2", positions="rotary", activation="swiglu", use_bias=False)
    with pytest.raises(UserError) as error:
        hugging_face.settings_to(model.to_dict(), 65, end_of_text=None)
    assert "config.model.positions is 'rotary': GPT-2's is 'learned'" in str(error.value)
    assert "config.model.use_bias is False" in str(error.value)
    model.update(positions="learned", use_bias=True)
    with pytest.raises(UserError, match=r"activation is 'swiglu': expected one of gelu"):
        hugging_face.settings_to(model.to_dict(), 65, end_of_text=None)


@pytest.mark.long
@pytest.mark.parametrize("name", ["char", "byte", "gpt2", "bpe:300"])
def test_tokenizers_there_and_back(tmp_path, name):
    tokenizer = tokenizers.build(name, lambda: [TEXT], list)
    tokenizer_files.write(tokenizer, tmp_path)
    library = tokenizer_files.to_hugging_face(tokenizer)
    assert library.get_vocab_size() == tokenizer.vocab_size
    if name == "gpt2":
        assert library.encode("a<|endoftext|>b").ids == [64, 50256, 65]
        assert library.get_added_tokens_decoder()[50256].special
    np.testing.assert_array_equal(library.encode(TEXT).ids, tokenizer.encode(TEXT))
    assert library.decode(tokenizer.encode(TEXT).tolist()) == TEXT
    again = pretrained_tokenizer.read(tmp_path)
    assert type(again) is type(tokenizer)
    np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))
