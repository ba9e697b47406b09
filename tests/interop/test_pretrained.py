"""Weights and tokenizers to and from transformers itself, at GPT-2 small's real shape too."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import models
from checkpoints import pretrained
from experiments import default
from input_pipeline import hugging_face as tokenizer_files
from input_pipeline import tokenizers
from models import hugging_face
from tests.command import run
from tests.interop import tokenizer_ids
from tests.interop.fixture import logits_of
from tests.tokenizer_folders import FIXTURE, KINDS

OFFLINE = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
TEXT = "ROMEO:\nO, she doth teach the torches to burn bright! né €uro 𝄞 "


def random_gpt2(seed=0, **changes):
    """Returns a GPT2LMHeadModel with random weights, in evaluation mode."""
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            mean = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            weight.copy_(mean + 0.05 * torch.randn(weight.shape, generator=generator))
    return model


def opened(folder):
    """Returns our model of a folder of weights without a tokenizer, and its parameters."""
    content = json.loads((folder / "config.json").read_text())
    settings = hugging_face.settings_from(content, folder)
    config = default.get_config().model
    config.update(name="gpt2", **settings)
    model = models.build(config, content["vocab_size"])
    return model, pretrained.load_params(folder, model)


def assert_same_logits(folder, theirs, num_tokens, atol):
    model, params = opened(folder)
    tokens_BT = np.random.default_rng(1).integers(0, model.vocab_size, (2, num_tokens))
    logits_BTV = jax.jit(model.apply)({"params": params}, tokens_BT)
    expected_BTV = logits_of(theirs, tokens_BT)
    assert expected_BTV.std() > 0.05
    np.testing.assert_allclose(logits_BTV, expected_BTV, atol=atol)


def test_logits_of_gpt2_small_are_equal(tmp_path):
    theirs = random_gpt2()
    assert sum(weight.numel() for weight in theirs.parameters()) == 124_439_808
    theirs.save_pretrained(tmp_path)
    assert_same_logits(tmp_path, theirs, num_tokens=96, atol=1e-4)


TINY = dict(vocab_size=65, n_positions=32, n_embd=24, n_head=3, n_layer=2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"n_inner": 40},
        {"layer_norm_epsilon": 0.1},
        {"reorder_and_upcast_attn": True},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
        {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False},
        *({"activation_function": name} for name in hugging_face.ACTIVATIONS),
    ],
    ids=str,
)
def test_logits_of_any_gpt2_config_are_equal_and_come_back(tmp_path, changes):
    theirs = random_gpt2(**TINY | changes)
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same_logits(tmp_path / "theirs", theirs, num_tokens=32, atol=1e-5)
    _, params = opened(tmp_path / "theirs")
    tensors = hugging_face.from_params(params)
    is_scaled = any(name.startswith("scale_attn") for name in changes)
    for name, weight in theirs.named_parameters():
        if not (is_scaled and ".c_attn." in name):  # The scale went into the query.
            np.testing.assert_array_equal(tensors[name], weight.detach().numpy(), err_msg=name)


HEADS = (
    transformers.GPT2DoubleHeadsModel,
    transformers.GPT2ForSequenceClassification,
    transformers.GPT2ForTokenClassification,
    transformers.GPT2ForQuestionAnswering,
    transformers.GPT2Model,
)


@pytest.mark.parametrize("kind", HEADS)
def test_models_with_other_heads_are_read_as_language_models(tmp_path, kind):
    kind(GPT2Config(**TINY, bos_token_id=0, eos_token_id=0)).save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert_same_logits(tmp_path, theirs, num_tokens=32, atol=1e-5)


def test_names_that_other_models_have_for_the_same_settings(tmp_path):
    theirs = random_gpt2(**TINY)
    theirs.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    for name, usual in hugging_face.ALIASES.items():
        content[name] = content.pop(usual)
    (tmp_path / "config.json").write_text(json.dumps(content))
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert_same_logits(tmp_path, theirs, num_tokens=32, atol=1e-5)


def test_a_tied_head_may_be_the_only_copy(tmp_path):
    theirs = random_gpt2(**TINY)
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert_same_logits(tmp_path, theirs, num_tokens=32, atol=1e-5)


def test_rows_beyond_the_tokenizer_are_left_out(tmp_path):
    """The tokenizer has 282 tokens; the weights are padded to 320, and come back unpadded."""
    theirs = random_gpt2(**TINY | {"vocab_size": 320})
    theirs.save_pretrained(tmp_path)
    KINDS["[PAD] named"](tmp_path)
    ours = pretrained.open_model(tmp_path, "latest")
    tokens_BT = np.array([AutoTokenizer.from_pretrained(tmp_path).encode("the[PAD] thing")])
    assert ours.tokenizer.encode("the[PAD] thing").tolist() == tokens_BT[0].tolist()
    logits_BTV = ours.model.apply({"params": ours.params}, tokens_BT)
    np.testing.assert_allclose(logits_BTV, logits_of(theirs, tokens_BT)[..., :282], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(tmp_path, dtype):
    theirs = random_gpt2(**TINY).to(dtype)
    theirs.save_pretrained(tmp_path)
    assert_same_logits(tmp_path, theirs.float(), num_tokens=32, atol=1e-5)


def test_weights_in_several_files_are_read(tmp_path):
    theirs = random_gpt2(**TINY)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_logits(tmp_path, theirs, num_tokens=32, atol=1e-5)


def test_fine_tuning_from_transformers_and_back(tmp_path):
    """A random GPT2LMHeadModel, loaded, trained and exported, has the same logits there."""
    theirs = random_gpt2(**TINY)
    theirs.save_pretrained(tmp_path / "theirs")
    flags = ["--config=experiments/gpt2.py:finetune", "--config.model.context_length=32"]
    flags += [f"--config.model.init_from={tmp_path / 'theirs'}", "--config.train.num_steps=30"]
    trained = run("main.py", *flags, f"--workdir={tmp_path / 'run'}", **OFFLINE)
    assert trained.returncode == 0, trained.stderr
    losses = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    losses = [line["val/loss"] for line in losses if "val/loss" in line]
    assert losses[-1] < losses[0]
    words = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'ours'}"]
    exported = run("export.py", *words, **OFFLINE)
    assert exported.returncode == 0, exported.stderr
    back = GPT2LMHeadModel.from_pretrained(tmp_path / "ours")
    assert_same_logits(tmp_path / "ours", back, num_tokens=32, atol=1e-5)
    moved = max(
        float((one - other).detach().abs().max())
        for one, other in zip(back.parameters(), theirs.parameters(), strict=True)
    )
    assert moved > 1e-3
    # Our evaluation of the exported folder equals the run's validation loss.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    val = run("evaluate.py", f"--workdir={tmp_path / 'ours'}", **OFFLINE)
    assert json.loads(val.stdout)["val/loss"] == pytest.approx(min(losses), abs=1e-5)
    made = run("generate.py", f"--workdir={tmp_path / 'run'}", "--temperature=0", "--num_tokens=20")
    prompt = torch.tensor([tokenizer.encode("\n")])
    # Without a mask transformers takes the prompt for padding, which has the same id.
    text = back.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=20,
        pad_token_id=0,
    )[0]
    assert made.stdout == tokenizer.decode(text) + "\n"


def test_ids_of_tokenizers_are_those_in_the_fixture():
    assert tokenizer_ids.all_ids() == json.loads(FIXTURE.read_text())


@pytest.mark.parametrize("name", ["char", "byte", "gpt2", "bpe:300"])
def test_tokenizers_are_read_by_transformers(tmp_path, name):
    ours = tokenizers.build(name, lambda: [TEXT * 20], list)
    tokenizer_files.write(ours, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(TEXT) == ours.encode(TEXT).tolist()
    if name == "gpt2":
        assert theirs.encode("a<|endoftext|>") == ours.encode("a<|endoftext|>").tolist()
        assert theirs.eos_token_id == 50256
        assert theirs.decode([64, 50256], skip_special_tokens=True) == "a"
    assert theirs.decode(theirs.encode(TEXT)) == TEXT
