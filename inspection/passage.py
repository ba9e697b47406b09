"""A passage of the held-out text: what a model guesses at each place."""

import numpy as np

from inspection import scores
from inspection.subject import Subject, pieces_of


def measure(subject: Subject, found: scores.Scores) -> dict:
    """Returns the passage's tokens, and of each the probability and the five best guesses."""
    places = subject.passage
    guesses = scores.guess(subject, places)
    chosen = subject.tokens[places]
    nats = found.nats[places.start - 1 : places.stop - 1]
    return {
        "pieces": pieces_of(subject.tokenizer, chosen),
        "p": np.exp(-nats.astype(np.float64)).round(4).tolist(),
        "guesses": [pieces_of(subject.tokenizer, row) for row in guesses.tokens],
        "p_guesses": guesses.p.astype(np.float64).round(4).tolist(),
        "right": found.is_right[places.start - 1 : places.stop - 1].astype(int).tolist(),
    }
