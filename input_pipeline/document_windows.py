"""Windows of a prepared corpus that hold one document each, padded: `data.pack=false`.

A document's first token has the <|endoftext|> of the document before it as its context, and its
own <|endoftext|> is its last target. A document longer than a context takes several windows, each
of which begins with the last token of the one before. So every token of a file but its first is a
target once, as in windows across documents; the difference is what stands before it.
"""

import numpy as np

from input_pipeline.pairs import PADDING
from input_pipeline.shards import Shards


class DocumentWindows(Shards):
    """Token ids of files, and where their documents end, as windows within documents.

    `ends` are, for each file, the numbers of tokens up to the end of each document, in order; what
    stands behind the last one is another document. Takes 8 bytes of memory a document.
    """

    is_padded = True

    def __init__(self, arrays: list[np.ndarray], ends: list[np.ndarray]) -> None:
        super().__init__(arrays)
        self.ends = [
            stops if len(array) == max(stops[-1:], default=0) else np.append(stops, len(array))
            for array, stops in zip(arrays, ends, strict=True)
        ]
        self._documents = np.cumsum([*map(len, self.ends)])  # Up to the end of each file.

    @property
    def num_targets(self) -> int:
        """The number of targets in all windows."""
        return sum(max(len(array) - 1, 0) for array in self.arrays)

    def beginning(self, max_tokens: int) -> "DocumentWindows":
        """Returns the windows of the first `max_tokens` targets; a document may end within."""
        arrays, ends = [], []
        for array, stops in zip(self.arrays, self.ends, strict=True):
            part = array[: max_tokens + 1]
            arrays.append(part)
            ends.append(stops[: np.searchsorted(stops, len(part), side="right")])
            max_tokens -= max(len(part) - 1, 0)
            if not max_tokens:
                break
        return DocumentWindows(arrays, ends)

    def windows(self, numbers: np.ndarray, context_length: int) -> np.ndarray:
        """Returns the windows of some numbers, int32 [..., T+1], padded; past the last, padding."""
        lasts = self._ends(context_length)
        flat = numbers.ravel()
        documents = np.searchsorted(lasts, flat, side="right")
        files = np.searchsorted(self._documents, documents, side="right")
        taken = np.full((flat.size, context_length + 1), PADDING, np.int32)
        for row, (file, document) in enumerate(
            zip(files.tolist(), documents.tolist(), strict=True)
        ):
            if document == len(lasts):
                continue
            begin, stop = self._span(file, document)
            first = int(lasts[document - 1]) if document else 0
            start = begin + (int(flat[row]) - first) * context_length
            part = self.arrays[file][start : min(stop, start + context_length + 1)]
            taken[row, : len(part)] = part
        return taken.reshape(*numbers.shape, context_length + 1)

    def _span(self, file: int, document: int) -> tuple[int, int]:
        """Returns where a document's windows begin and stop, in its file."""
        stops = self.ends[file]
        place = document - int(self._documents[file - 1] if file else 0)
        return (int(stops[place - 1]) - 1 if place else 0), int(stops[place])

    def _count(self, context_length: int) -> np.ndarray:
        """Returns, for each document, the number of windows up to its end."""
        targets = [np.diff(stops.astype(np.int64), prepend=1) for stops in self.ends]
        return np.cumsum(-(-np.concatenate(targets) // context_length))
