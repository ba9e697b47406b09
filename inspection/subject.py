"""A trained model with the held-out text that it is measured on."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from input_pipeline.pairs import Pairs, Records
from input_pipeline.tokenizers import Tokenizer
from runtime.errors import UserError

# Tokens of the passage that is shown, and its place in the held-out text.
PASSAGE, PLACE = 600, 0.5


class Subject(NamedTuple):
    """Model to look into."""

    name: str
    model: nn.Module
    params: Any
    tokenizer: Tokenizer
    context_length: int
    train: np.ndarray  # Token ids of the text that it was trained on.
    tokens: np.ndarray  # Token ids of the held-out text.
    # Steps and parameters of the snapshots of its training, first to last.
    snapshots: Callable[[], Iterable[tuple[int, Any]]] = tuple
    others: Sequence["Subject"] = ()  # Models of earlier stages.

    def check(self) -> "Subject":
        """Returns itself, of a made text with all its windows as one text.

        Raises UserError for a text that has no passages, or too little of it.
        """
        if isinstance(self.tokens, Records) and isinstance(self.train, Records):
            return self._replace(tokens=self.tokens.text, train=self.train.text).check()
        if isinstance(self.tokens, Pairs) or isinstance(self.train, Pairs):
            raise UserError(f"{self.name} was trained on pairs: only texts can be looked into")
        if len(self.tokens) <= (least := 2 * self.context_length):
            raise UserError(
                f"{self.name}: the text has {len(self.tokens)} tokens: expected more than {least}, "
                "twice the context"
            )
        return self

    @property
    def passage(self) -> slice:
        """The tokens of the passage that is shown, from the beginning of a paragraph if it has one.

        The place is that of characters, so that runs with other tokenizers show the same one.
        """
        text = self.tokenizer.decode(self.tokens)
        begin = text.find("\n\n", int(PLACE * max(len(text) - PASSAGE, 0)))
        begin = begin + 2 if 0 <= begin <= len(text) - PASSAGE else 0
        chosen = text[begin : begin + PASSAGE]
        sizes = [len(part.encode("utf-8", "replace")) for part in (text[:begin], chosen)]
        ends = np.cumsum(self.tokenizer.token_bytes[self.tokens])
        first, last = np.searchsorted(ends, np.cumsum(sizes) - [0, 1], side="right")
        # The first token has nothing before it.
        return slice(max(int(first), 1), int(last) + 1)


def pieces_of(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    """Returns the text of each token; bytes that are no characters alone are shown as �."""
    texts = {int(token): tokenizer.decode(np.array([token])) for token in np.unique(tokens)}
    return [texts[int(token)] for token in tokens]
