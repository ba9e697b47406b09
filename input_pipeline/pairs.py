"""Prompt/answer pairs: read from records, encoded, and as windows of one pair each.

The prompt is input alone; the answer, and the text after it that ends a document, are the targets.
A token that is no target is kept as its complement ~t, which is negative, so that one array has the
tokens and says what counts. A pair begins where a target is followed by none.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from input_pipeline import documents
from input_pipeline.hugging_face import end_of_text
from input_pipeline.text_files import Pieces
from input_pipeline.tokenizers import Tokenizer
from runtime.errors import UserError

PADDING = ~0


class Pairs:
    """Pairs of a split, one after the other in int32 `tokens`; `left_out` did not fit a context."""

    def __init__(self, tokens: np.ndarray, left_out: int = 0) -> None:
        self.tokens = np.asarray(tokens)
        self.left_out = left_out
        is_target = self.tokens >= 0
        self._starts = np.flatnonzero(np.diff(is_target, prepend=True) & ~is_target)
        self._lengths = np.diff(self._starts, append=len(self.tokens))

    def __len__(self) -> int:
        return len(self._starts)

    def fitting(self, context_length: int, name: str) -> "Pairs":
        """Returns the pairs whose targets all have the whole pair before them in their context.

        Raises UserError, which calls the split `name`, if there is none.
        """
        fits = self._lengths <= context_length + 1
        if not len(self):
            raise UserError(f"there are no pairs {name}: give some")
        if not fits.any():
            raise UserError(
                f"--config.model.context_length={context_length}: none of the {len(self)} pairs "
                f"{name} fits: expected {self._lengths.min() - 1} at least, and "
                f"{self._lengths.max() - 1} for all of them"
            )
        inside = np.repeat(fits, self._lengths)
        return self if fits.all() else Pairs(self.tokens[inside], int((~fits).sum()))

    def num_windows(self, context_length: int) -> int:
        """Returns the number of windows: one a pair."""
        return len(self)

    def windows(self, numbers: np.ndarray, context_length: int) -> np.ndarray:
        """Returns the pairs of some numbers, int32 [..., T+1], padded; past the last, padding."""
        places = np.arange(context_length + 1)
        inside = np.minimum(numbers, len(self) - 1)
        lengths = np.where(numbers < len(self), self._lengths[inside], 0)
        tokens = self.tokens.take(self._starts[inside][..., None] + places, mode="clip")
        return np.where(places < lengths[..., None], tokens, PADDING).astype(np.int32)

    def first_prompt(self) -> np.ndarray:
        """Returns the tokens of the first pair's prompt."""
        return ~self.tokens[: np.argmax(self.tokens >= 0)]


class Records(Pairs):
    """Windows [N, T] of a made text: as pairs, but of one length and with targets anywhere.

    `nats` [N, T] are -log p of each target, by the generator that drew it.
    """

    def __init__(self, tokens: np.ndarray, nats: np.ndarray) -> None:
        num, length = tokens.shape
        self.tokens = tokens.reshape(-1)
        self.left_out = 0
        self.nats = nats
        self._starts = np.arange(num) * length
        self._lengths = np.full(num, length)

    def fitting(self, context_length: int, name: str) -> "Records":
        """Returns the beginnings of the windows that fit a context with the token after it.

        Raises UserError, which calls the split `name`, if none of those has a target.
        """
        size = context_length + 1
        marked_NT = self.tokens.reshape(len(self), -1)[:, :size]
        if not (marked_NT >= 0).any():
            raise UserError(
                f"--config.model.context_length={context_length}: the windows {name} have nothing "
                "to predict in so short a context: raise it"
            )
        return Records(marked_NT, self.nats[:, :size])

    @property
    def floor(self) -> float:
        """The generator's mean nats over the targets: the lowest loss that a model can reach."""
        return float(self.nats.reshape(-1)[self.tokens >= 0].mean())

    @property
    def text(self) -> np.ndarray:
        """The tokens of all windows, one after the other, unmarked."""
        return np.maximum(self.tokens, ~self.tokens)


def pieces(files: list[Path], prompt_field: str, field: str, separator: str) -> Iterator[str]:
    """Yields the prompt, the answer and `separator` of each record, one after the other.

    Raises UserError for a file that has no records, and for a record that is no pair.
    """
    for path in files:
        if not documents.has_records(path):
            raise UserError(
                f"{path} has no records: expected .jsonl or .parquet files with prompts, "
                f"{prompt_field!r}, and answers, {field!r}; name those"
            )
        for where, texts in documents.records(path, {"prompt_field": prompt_field, "field": field}):
            for name, text in zip((prompt_field, field), texts, strict=True):
                if not text:
                    raise UserError(f"{where}: its field {name!r} is empty: expected a text")
            yield from (*texts, separator)


def splits(text: Pieces, where: object) -> tuple[Pieces, Pieces]:
    """Returns train and val: the first 90 % of the pairs and the rest; `text` is of `pieces`.

    Raises UserError, naming `where`, when a split of less than two pairs is read.
    """

    @functools.cache
    def cut() -> int:
        count = sum(1 for _ in text()) // 3
        if count < 2:
            raise UserError(f"{where} has {count} pairs: expected 2 or more")
        return count * 9 // 10 * 3

    return lambda: itertools.islice(text(), cut()), lambda: itertools.islice(text(), cut(), None)


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yields the tokens of each pair; `texts` are of `pieces`."""
    texts = iter(texts)
    for prompt, answer, separator in zip(texts, texts, texts, strict=True):
        ending = end(tokenizer, separator)
        yield np.concatenate([~tokenizer.encode(prompt), tokenizer.encode(answer), ending])


def end(tokenizer: Tokenizer, separator: str) -> np.ndarray:
    """Returns the tokens after an answer: `separator`, or else <|endoftext|> if it is a token."""
    if separator:
        return tokenizer.encode(separator)
    token = end_of_text(tokenizer)
    return np.array([] if token is None else [token], np.int32)
