"""An account of what a model knows by kind of character, which adds up to its loss."""

import base64
import hashlib
import math

import numpy as np

from inspection.kinds import NAMES, kinds_of
from inspection.scores import Scores
from inspection.subject import Subject, pieces_of


def measure(subject: Subject, scores: Scores) -> dict:
    """Returns the nats of each kind of token, and which best guesses are right, a bit each.

    A token of several characters is of the kind of its first one. `units` is equal for models whose
    tokens have the same texts: only those compare token by token.
    """
    pieces = pieces_of(subject.tokenizer, subject.tokens)
    firsts = np.cumsum([0, *(len(piece) for piece in pieces)])[1:-1]
    text = "".join(pieces)
    kinds = kinds_of(text)[np.minimum(firsts, len(text) - 1)]
    num_kinds = len(NAMES)
    return {
        "units": hashlib.sha256("\0".join(pieces).encode("utf-8", "surrogatepass")).hexdigest(),
        "num": len(scores.nats),
        "uniform": math.log(subject.tokenizer.vocab_size),
        "kinds": list(NAMES),
        "counts": np.bincount(kinds, minlength=num_kinds).tolist(),
        "nats": np.bincount(kinds, scores.nats.astype(np.float64), num_kinds).tolist(),
        "right": base64.b64encode(np.packbits(scores.is_right).tobytes()).decode(),
    }
