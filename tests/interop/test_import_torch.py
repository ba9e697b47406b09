"""Pickled weights, converted: nanoGPT's checkpoints, by its equations, and pytorch_model.bin."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from benchmarks import import_torch
from checkpoints import pretrained
from input_pipeline.tokenizers import CharTokenizer
from runtime.errors import UserError
from tests.command import assert_refused, run
from tests.interop.fixture import logits_of
from tests.tokenizer_folders import KINDS

T, D, H, L = 8, 12, 3, 2
CHARACTERS = "\n !abcdefgh"


def checkpoint(bias=True, prefix="", vocab_size=11):
    """Returns a checkpoint as nanoGPT saves it, with random weights; kernels are [out, in]."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    model = {
        "transformer.wte.weight": random(vocab_size, D),
        "transformer.wpe.weight": random(T, D),
    }
    places = {"transformer.ln_f": (D,)}
    for layer in range(L):
        at = f"transformer.h.{layer}"
        places |= {f"{at}.ln_1": (D,), f"{at}.ln_2": (D,)}
        places |= {f"{at}.attn.c_attn": (3 * D, D), f"{at}.attn.c_proj": (D, D)}
        places |= {f"{at}.mlp.c_fc": (4 * D, D), f"{at}.mlp.c_proj": (D, 4 * D)}
        model[f"{at}.attn.bias"] = torch.ones(T, T).tril().view(1, 1, T, T)  # The mask.
    for place, shape in places.items():
        model[f"{place}.weight"] = random(*shape) + (len(shape) == 1)
        if bias:
            model[f"{place}.bias"] = random(shape[0])
    model["lm_head.weight"] = model["transformer.wte.weight"]
    args = dict(n_layer=L, n_head=H, n_embd=D, block_size=T, bias=bias, vocab_size=vocab_size)
    content = {"model": {prefix + name: tensor for name, tensor in model.items()}}
    content |= {"model_args": args | {"dropout": 0.0}, "optimizer": {"state": {}}, "iter_num": 9}
    return content | {"best_val_loss": torch.tensor(1.5), "config": {"dataset": "shakespeare_char"}}


def logits_by_hand(model, tokens_BT):
    """Returns the logits by nanoGPT's equations."""

    def linear(x, place):
        return F.linear(x, model[f"{place}.weight"], model.get(f"{place}.bias"))

    def norm(x, place):
        return F.layer_norm(x, (D,), model[f"{place}.weight"], model.get(f"{place}.bias"), 1e-5)

    B = len(tokens_BT)
    x = model["transformer.wte.weight"][tokens_BT] + model["transformer.wpe.weight"]
    for layer in range(L):
        at = f"transformer.h.{layer}"
        qkv = linear(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn").split(D, dim=2)
        q, k, v = (part.view(B, T, H, D // H).transpose(1, 2) for part in qkv)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(y.transpose(1, 2).reshape(B, T, D), f"{at}.attn.c_proj")
        hidden = F.gelu(linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc"))
        x = x + linear(hidden, f"{at}.mlp.c_proj")
    return (norm(x, "transformer.ln_f") @ model["transformer.wte.weight"].T).numpy()


@pytest.fixture
def meta(tmp_path):
    """nanoGPT's file of characters."""
    path = tmp_path / "meta.pkl"
    itos = dict(enumerate(CHARACTERS))
    stoi = {char: token for token, char in itos.items()}
    path.write_bytes(pickle.dumps({"vocab_size": len(itos), "itos": itos, "stoi": stoi}))
    return path


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_logits_are_nanogpts(tmp_path, meta, bias, prefix):
    torch.save(checkpoint(bias, prefix), tmp_path / "ckpt.pt")
    import_torch.convert(tmp_path / "ckpt.pt", tmp_path / "out", meta)
    ours = pretrained.open_model(tmp_path / "out", "latest")
    assert isinstance(ours.tokenizer, CharTokenizer) and ours.tokenizer.vocabulary == CHARACTERS
    tokens_BT = np.random.default_rng(0).integers(0, len(CHARACTERS), (2, T))
    expected_BTV = logits_by_hand(checkpoint(bias)["model"], tokens_BT)
    logits_BTV = ours.model.apply({"params": ours.params}, tokens_BT)
    np.testing.assert_allclose(logits_BTV, expected_BTV, atol=1e-5)
    assert expected_BTV.std() > 0.5
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    np.testing.assert_allclose(logits_of(theirs, tokens_BT), expected_BTV, atol=1e-5)


def test_gpt2s_vocabulary_is_padded_by_nanogpt(tmp_path):
    """As the command, then generation from the folder."""
    torch.save(checkpoint(vocab_size=50_304), tmp_path / "ckpt.pt")
    flags = [f"--input={tmp_path / 'ckpt.pt'}", f"--output={tmp_path / 'out'}"]
    made = run("-m", "benchmarks.import_torch", *flags)
    assert made.stdout == f"{tmp_path / 'out'}\n", made.stderr
    ours = pretrained.open_model(tmp_path / "out", "latest")
    assert ours.model.vocab_size == ours.tokenizer.vocab_size == 50_257
    again = run("-m", "benchmarks.import_torch", *flags)
    assert_refused(again, f"--output={tmp_path / 'out'} can't be written: File exists")


def test_a_pickled_folder_of_transformers(tmp_path):
    """With its tokenizer, in one file and in two."""
    sizes = dict(vocab_size=282, n_positions=T, n_embd=D, n_head=H, n_layer=L)
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    theirs.config.save_pretrained(tmp_path)
    KINDS["[PAD] named"](tmp_path)
    tensors = theirs.state_dict()
    first = dict(list(tensors.items())[:9])
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    torch.save(first, tmp_path / "pytorch_model-00001-of-00002.bin")
    rest = {name: tensors[name] for name in tensors.keys() - first.keys()}
    torch.save(rest, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(UserError, match=r"benchmarks\.import_torch --input=.*pytorch_model"):
        pretrained.open_model(tmp_path, "latest")
    ids = np.array([AutoTokenizer.from_pretrained(tmp_path).encode("the[PAD]")])
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin"):
        import_torch.convert(tmp_path / name, tmp_path / name[-9:])
        ours = pretrained.open_model(tmp_path / name[-9:], "latest")
        assert ours.tokenizer.encode("the[PAD]").tolist() == ids[0].tolist()
        logits_BTV = ours.model.apply({"params": ours.params}, ids)
        np.testing.assert_allclose(logits_BTV, logits_of(theirs, ids), atol=1e-5)


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise AssertionError('it ran')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "ckpt.pt can't be read"),
        (b"no pickle", "ckpt.pt can't be read"),
        ({"model": Code()}, "ckpt.pt can't be read"),
        ([1], "ckpt.pt holds a list: expected tensors by name"),
        ({"weights": {}}, "ckpt.pt holds weights: expected nanoGPT's model and model_args, or te"),
        (
            {"model": {}, "model_args": {"n_layer": 2}},
            "holds model, model_args: expected nanoGPT's",
        ),
        (checkpoint(), "--input has 11 tokens, which are not GPT-2's: give the meta.pkl of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_not_be_converted_is_named(tmp_path, content, message):
    path = tmp_path / "ckpt.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        import_torch.convert(path, tmp_path / "out")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [Code(), {"stoi": {}}, [1]])
def test_characters_that_can_not_be_read(tmp_path, content):
    torch.save(checkpoint(), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"--meta=.*meta\.pkl can't be read as nanoGPT's"):
        import_torch.convert(tmp_path / "ckpt.pt", tmp_path / "out", tmp_path / "meta.pkl")
