"""A passage of the held-out text: what a model guesses at each place."""

import numpy as np

from inspection import scores
from inspection.subject import Subject, pieces_of


def measure(subject: Subject, found: scores.Scores) -> dict:
    """Returns the passage's tokens, and of each the probability and the five best guesses.

    `begin` is the place of its first byte in the text.
    """
    places = subject.passage
    guesses = scores.guess(subject, places)
    chosen = subject.tokens[places]
    nats = found.nats[places.start - 1 : places.stop - 1]
    token_bytes = subject.tokenizer.token_bytes
    return {
        "begin": int(token_bytes[subject.tokens[: places.start]].sum()),
        "bytes": token_bytes[chosen].tolist(),
        "pieces": pieces_of(subject.tokenizer, chosen),
        "p": np.exp(-nats.astype(np.float64)).round(4).tolist(),
        "guesses": [pieces_of(subject.tokenizer, row) for row in guesses.tokens],
        "p_guesses": guesses.p.astype(np.float64).round(4).tolist(),
        "right": found.is_right[places.start - 1 : places.stop - 1].astype(int).tolist(),
    }
