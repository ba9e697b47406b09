"""Each held-out token: its place in the text, its kind, and how well the model predicts it.

With the places in bytes, runs with other tokens can be compared on the same text.
"""

import base64
import hashlib
import math
import zlib

import numpy as np

from inspection.kinds import NAMES, kinds_of
from inspection.scores import Scores
from inspection.subject import Subject, pieces_of


def measure(subject: Subject, scores: Scores) -> dict:
    """Returns numbers for each token, packed; those of predictions begin with the second one.

    `units` is equal for runs whose tokens have the same texts.
    """
    pieces = pieces_of(subject.tokenizer, subject.tokens)
    return {
        "text": digest(subject.tokenizer.decode(subject.tokens)),
        "units": digest("\0".join(pieces)),
        "names": list(NAMES),
        "uniform": math.log(subject.tokenizer.vocab_size),
        "bytes": packed(subject.tokenizer.token_bytes[subject.tokens], "<u4"),
        "kinds": packed(kinds_of_tokens(subject), "u1"),
        "nats": packed(scores.nats, "<f4"),
        "right": packed(scores.is_right, "u1"),
    }


def kinds_of_tokens(subject: Subject) -> np.ndarray:
    """Returns the kind of each token: that of its first character."""
    text = subject.tokenizer.decode(subject.tokens)
    characters = np.repeat(np.arange(len(text)), [len(x.encode("utf-8", "replace")) for x in text])
    ends = np.cumsum(subject.tokenizer.token_bytes[subject.tokens])
    # Not every tokenizer gives all bytes back.
    begins = np.minimum(np.concatenate([[0], ends[:-1]]), len(characters) - 1)
    return kinds_of(text)[characters[begins]]


def digest(text: str) -> str:
    """Returns the sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def packed(numbers: np.ndarray, dtype: str) -> str:
    """Returns an array as text: its bytes, compressed, in base 64."""
    return base64.b64encode(zlib.compress(numbers.astype(dtype).tobytes())).decode()
