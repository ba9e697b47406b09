"""Text of generated tokens as they come: whole characters, up to a stop string."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from input_pipeline.tokenizers import Tokenizer
from runtime.errors import UserError


def check_stops(stops: Sequence[str], name: str) -> Sequence[str]:
    """Returns `stops`. Raises UserError, which calls them `name`, for an empty one."""
    if not all(stops):
        raise UserError(f"{name} is empty: expected the text that ends a sample")
    return stops


def stream_text(
    tokenizer: Tokenizer, chunks: Iterable[np.ndarray], stops: Sequence[str] = ()
) -> Iterator[str]:
    """Yields the text of consecutive token ids (1-d arrays), in pieces of whole characters.

    Ends before the first of `stops`, without reading further chunks.
    """
    return _until(_whole_characters(tokenizer, chunks), stops)


def _whole_characters(tokenizer: Tokenizer, chunks: Iterable[np.ndarray]) -> Iterator[str]:
    held_back = np.zeros(0, np.int32)
    for chunk in chunks:
        held_back = np.concatenate([held_back, chunk])
        text = tokenizer.decode(held_back)
        # A character may take several tokens; until the last one it decodes to U+FFFD.
        if not text.endswith("\ufffd"):
            yield text
            held_back = held_back[:0]
    yield tokenizer.decode(held_back)


def _until(texts: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yields `texts` up to the stop that is whole first; the beginning of one waits for the next.

    So the result does not depend on how the text is cut into pieces.
    """
    held_back = ""
    for text in texts:
        text = held_back + text
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
        if found:
            yield text[: min(found)[1]]
            return
        size = max((_overlap(text, stop) for stop in stops), default=0)
        cut = len(text) - size
        yield text[:cut]
        held_back = text[cut:]
    yield held_back


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of `text` with which `stop` begins."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
