"""The page's tokenizers in a browser, against Python's: ids, places, decoding, what is left out."""

import functools
import itertools
import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

import playground_page
from input_pipeline import hugging_face, pretrained_tokenizer, tokenizers
from input_pipeline.tokenizers import PRETRAINED, TrainedTokenizer
from playground_page import vocabulary
from runtime.errors import UserError
from tests import browser
from tests.tokenizer_folders import (
    END,
    KINDS,
    LEARNED_FROM,
    PLAIN,
    TEXT,
    learned,
    with_tokens,
    write,
)

FEW = "an alphabet of few bytes"
SURROGATE = "\ud800"
TEXTS = [
    "",
    " ",
    "\n",
    TEXT,
    3 * TEXT,
    LEARNED_FROM,
    "KING LEAR:\nTo be, or not: “thou”, naïve Tom?\n\n",
    "I'll we've they'd it's can't I'm you're 'S ''s x'll'd don’t",
    "  two   three    \t\t tab \r\n\r\n \n ends in spaces   ",
    "ends in lines\n\n\n",
    "x\ufeffy \ufeff z\x85w \x85\x85v\u180eu\u200b t\u2028\u2029s\xa0\xa0r\u3000q\x1cp\x1f\x00",
    "\ufefffirst",
    "1234567 ١٢٣ ४५६ Ⅷ½² x1y22z",
    "e\u0301 n\u0303o\u0308 कि ก็ 🏳️‍🌈 👨‍👩‍👧 𝄞𝄞 𐐷 ﬁ ǅ ª",
    "學而時習之，不亦說乎？日本語テキスト 한국어",
    f"{SURROGATE}a {SURROGATE}{SURROGATE}\ud83d. \udc00𝄞\udfff",
    "<mask>x <mask> \t\x85\u2003<mask>y_<mask> é<mask>ê <mask>",
    f"{END}{END} {END}the{END}\n<|endoftext|",
    "<a> <mask> <a>  <mask>",
    "<a><a>b<ab><abc><a  <é> Ġthe Ċ Ġ",
    "a" * 300,
    "aaabab bababaabb" * 9,
]
# Any assigned character (browsers differ in Unicode's version), and often a few that merge.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
SOME_TEXTS = st.lists(
    st.text(CHARACTERS)
    | st.text("ab \né€𝄞'sl\x85\ufeff")
    | st.lists(st.sampled_from(["<a>", "<ab>", "<mask>", END, " ", "a", "_", "the"])).map("".join),
    min_size=8,
    max_size=16,
)


def folder(write_folder):
    """Returns a function that reads a tokenizer from a new folder."""

    def read(path):
        path.mkdir()
        write_folder(path)
        return pretrained_tokenizer.read(path)

    return read


def adding(*tokens):
    """Returns a function that reads a folder with more tokens."""
    return folder(lambda path: write(path, change=with_tokens(*tokens), tokenizer_config=PLAIN))


def scrambled(seed):
    """Returns a BPE whose merges are in any order, of which several make the same token."""
    words = ["".join(word) for size in range(1, 5) for word in itertools.product("ab", repeat=size)]
    cuts = [(word[:cut], word[cut:]) for word in words for cut in range(1, len(word))]
    merges = random.Random(seed).sample(cuts, 30)
    names = list(dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *words]))
    random.Random(seed).shuffle(names)
    encoding = library.Tokenizer(models.BPE(dict(zip(names, range(300), strict=False)), merges))
    encoding.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoding.decoder = decoders.ByteLevel()
    return TrainedTokenizer(PRETRAINED, json.loads(encoding.to_str()))


def built(name, text=""):
    return tokenizers.build(name, lambda: [text], list)


Token = library.AddedToken
# Functions of a new folder.
CASES = {
    "char": lambda path: built("char", TEXT + "\ufeff𐐷"),
    "char, few": lambda path: built("char", "the"),
    "byte": lambda path: built("byte"),
    "bpe:300": lambda path: built("bpe:300", LEARNED_FROM),
    "bpe:300 with a separator": lambda path: tokenizers.build(
        "bpe:300", lambda: [LEARNED_FROM], list, END
    ),
    "gpt2": lambda path: built("gpt2"),
    **{kind: folder(write_folder) for kind, write_folder in KINDS.items()},
    "the longest of several": adding("<a", Token("<ab>"), Token("<abc>"), Token("<a>"), "a"),
    "what is normalized comes last": adding(
        Token("<abc>", normalized=True), Token("ab", normalized=False), Token("<a", special=True)
    ),
    "signs of regular expressions": adding("^", "$", "(", "[.]", "\\", "|", "a*", "{2}", "?", "/-"),
    "whole words": adding(
        Token("a", single_word=True), Token("<mask>", single_word=True, lstrip=True)
    ),
    "the space of another": adding(Token("<a> "), Token("<mask>", lstrip=True)),
    "letters that stand for bytes": adding("<é>", "Ġthe", "Ċ"),
    **{f"scrambled merges {seed}": lambda path, seed=seed: scrambled(seed) for seed in range(6)},
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Tokenizers by their names."""
    path = tmp_path_factory.mktemp("folders")
    return {name: make(path / str(place)) for place, (name, make) in enumerate(CASES.items())}


@pytest.fixture(scope="module")
def exported(cases):
    return {name: vocabulary.exported(tokenizer) for name, tokenizer in cases.items()}


# By the tokenizer itself: GPT-2's takes a second to convert.
converted = functools.cache(hugging_face.to_hugging_face)


def expected_places(name, tokenizer, text):
    """Returns the place in the tokens of the last one made from each character, or before it."""
    if name.startswith("char"):
        return np.cumsum([char in tokenizer.vocabulary for char in text]) - 1
    text = text.encode("utf-8", "replace").decode()
    if name == "byte":
        return np.cumsum([len(char.encode()) for char in text]) - 1
    last = np.full(len(text), -1)
    encoded = converted(tokenizer).encode(text, add_special_tokens=False)
    for place, (begin, end) in enumerate(encoded.offsets):
        last[begin:end] = place
    return np.maximum.accumulate(last)


@pytest.mark.parametrize("name", ["unk_token", "ignore_merges"])
def test_what_the_page_cannot_carry_is_refused_in_a_line(name):
    content = json.loads(learned((), False))
    content["model"][name] = {"unk_token": "t", "ignore_merges": True}[name]
    with pytest.raises(UserError, match=rf"has {name}.*generate\.py") as error:
        vocabulary.exported(TrainedTokenizer(PRETRAINED, content))
    assert "\n" not in str(error.value)


def test_an_unknown_token_that_never_occurs_is_no_obstacle():
    content = json.loads(learned())
    content["model"]["unk_token"] = "t"
    assert vocabulary.exported(TrainedTokenizer(PRETRAINED, content))["kind"] == "bpe"


def test_gpt2_stays_small(exported):
    assert len(json.dumps(exported["gpt2"], separators=(",", ":"))) < 1_300_000


@pytest.mark.slow
class TestPage:
    """One page has all the tokenizers."""

    __test__ = browser.is_wanted()

    @pytest.fixture(scope="class")
    def page(self, exported, tmp_path_factory):
        script = (Path(playground_page.__file__).parent / "tokenizers.js").read_text()
        path = tmp_path_factory.mktemp("page") / "page.html"
        data = json.dumps(exported).replace("<", "\\u003c")
        path.write_text(
            f"<meta charset=utf-8><script>{script}</script><script>const opened = {{}};"
            f"for (const [name, one] of Object.entries({data})) opened[name] = openTokenizer(one);"
            "const decode = ({ bytes }, tokens) => new TextDecoder('utf-8', { ignoreBOM: true })"
            ".decode(Uint8Array.from(tokens.flatMap((token) => [...bytes[token]])));</script>"
        )
        with browser.launch() as chromium, browser.open_file(chromium, path) as opened:
            yield opened

    def ask(self, page, function, argument):
        """Returns what a function gives; as JSON, which has lone surrogates, too."""
        script = f"(json) => JSON.stringify(({function})(JSON.parse(json)))"
        return json.loads(page.evaluate(script, json.dumps(argument)))

    def encode(self, page, texts):
        """Returns the encoded texts of each tokenizer, with the decoded ones."""
        function = """(texts) => Object.entries(opened).map(([name, tokenizer]) => [name,
            texts.map((text) => {
                const { tokens, tokenAt, unknown } = tokenizer.encode(text);
                return { tokens, tokenAt: [...tokenAt], unknown, text: decode(tokenizer, tokens) };
            })])"""
        return dict(self.ask(page, function, texts))

    def check(self, page, cases, texts):
        for name, encoded in self.encode(page, texts).items():
            tokenizer = cases[name]
            for text, one in zip(texts, encoded, strict=True):
                known = text
                if name.startswith("char"):
                    known = "".join(char for char in text if char in tokenizer.vocabulary)
                    assert one["unknown"] == list(dict.fromkeys(c for c in text if c not in known))
                elif name != FEW:
                    assert one["unknown"] == []
                assert one["tokens"] == tokenizer.encode(known).tolist(), (name, text)
                assert one["text"] == tokenizer.decode(one["tokens"]), (name, text)
                if name != FEW:  # The library's offsets are wrong after a byte that is left out.
                    places = expected_places(name, tokenizer, text)
                    assert one["tokenAt"] == list(places), (name, text)

    def test_on_hard_texts(self, page, cases):
        self.check(page, cases, TEXTS)

    @settings(max_examples=20)
    @given(SOME_TEXTS)
    def test_on_any_texts(self, page, cases, texts):
        self.check(page, cases, texts)

    def test_bytes_without_a_token_are_left_out(self, page, cases):
        """By brute force: byte for byte through the text and the tokens."""
        tokenizer = cases[FEW]
        names = hugging_face.byte_vocabulary().items()
        known = {byte for char, byte in names if char in tokenizer.vocabulary}
        texts = [text for text in TEXTS if END not in text]
        missed = 0
        for text, one in zip(texts, self.encode(page, texts)[FEW], strict=True):
            text = text.encode("utf-8", "replace").decode()
            lengths = tokenizer.token_bytes[one["tokens"]]
            token_of_byte = np.repeat(np.arange(len(lengths)), lengths).tolist()
            places, unknown = [], []
            for char in text:
                for byte in char.encode():
                    if byte in known:
                        place = token_of_byte.pop(0)
                    elif char not in unknown:
                        unknown.append(char)
                places.append(place if len(token_of_byte) < lengths.sum() else -1)
            assert not token_of_byte
            assert (one["tokenAt"], one["unknown"]) == (places, unknown)
            missed += len(unknown)
        assert missed > 50

    def test_any_tokens_are_decoded_as_in_python(self, page, cases):
        """Also halves of characters, byte order marks, and each token alone."""
        rng = np.random.default_rng(0)
        tokens = {
            name: [
                *([token] for token in range(min(tokenizer.vocab_size, 400))),
                *rng.integers(0, tokenizer.vocab_size, (20, 30)).tolist(),
            ]
            for name, tokenizer in cases.items()
        }
        function = """(tokens) => Object.entries(tokens).map(([name, rows]) =>
            [name, opened[name].bytes.length, rows.map((row) => decode(opened[name], row))])"""
        for name, vocab_size, texts in self.ask(page, function, tokens):
            assert vocab_size == cases[name].vocab_size
            assert texts == [cases[name].decode(row) for row in tokens[name]], name

    def test_each_character_is_in_the_class_of_the_library(self, page):
        """All that Python knows as assigned, but for most ideographs."""
        assigned = [
            char
            for code in [*range(0x3400), *range(0x3400, 0x20000, 7), *range(0xE0000, 0xE0200)]
            if unicodedata.category(char := chr(code)) not in ("Cs", "Cn")
        ]
        text = "".join(f"a{char}1{char} {char}." for char in assigned)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
        expected = [text[begin:end] for _, (begin, end) in words]
        assert self.ask(page, "(text) => text.match(GPT2_WORD)", text) == expected
