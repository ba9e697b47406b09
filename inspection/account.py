"""An account of what a model knows by kind of character, which adds up to its loss."""

import numpy as np

from inspection.kinds import NAMES
from inspection.scores import Scores
from inspection.subject import Subject
from inspection.tokens import kinds_of_tokens


def measure(subject: Subject, scores: Scores) -> dict:
    """Returns the number of predicted tokens of each kind, and their nats.

    A token of several characters is of the kind of its first one.
    """
    kinds = kinds_of_tokens(subject)[1:]
    return {
        "kinds": list(NAMES),
        "counts": np.bincount(kinds, minlength=len(NAMES)).tolist(),
        "nats": np.bincount(kinds, scores.nats.astype(np.float64), len(NAMES)).tolist(),
    }
