"""Tasks by which trained models are compared: the last word of a passage, and multiple choice.

Both ask for nothing but probabilities of continuations, so a model needs no training for them.
"""

import math
from collections.abc import Sequence

import numpy as np

from inference.continuations import Scores
from input_pipeline.examples import Example


def last_word(scores: Scores) -> dict[str, float]:
    """Returns accuracy and perplexity of last words, as LAMBADA is scored.

    A word is right if each of its tokens is the most likely one. The perplexity is that of words:
    e to the mean nats of a whole word (Radford et al., 2019, section 3.3).
    """
    mean = float(scores.nats.mean())
    return {
        **_accuracy("accuracy", scores.are_greedy),
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "examples": len(scores.nats),
    }


def choices(scores: Scores, examples: Sequence[Example]) -> dict[str, float]:
    """Returns how often the right ending is the most likely, as HellaSwag is scored.

    Longer endings are less likely, whatever they say. So the accuracy is also given by the nats per
    character of an ending (lm-evaluation-harness's acc_norm) and per token (build-nanogpt's).
    `chance` is the accuracy of guessing.
    """
    characters = [len(text.strip()) for one in examples for text in one.continuations]
    by_measure = {
        "accuracy": scores.nats,
        "accuracy_per_character": scores.nats / np.array(characters),
        "accuracy_per_token": scores.nats / scores.num_tokens,
    }
    counts = np.array([len(one.continuations) for one in examples])
    answers = [one.answer for one in examples]
    found: dict[str, float] = {}
    for name, values in by_measure.items():
        of_examples = np.split(values, np.cumsum(counts)[:-1])
        chosen = [int(np.argmin(one)) for one in of_examples]
        found |= _accuracy(name, np.equal(chosen, answers))
    return {**found, "chance": float((1 / counts).mean()), "examples": len(examples)}


def _accuracy(name: str, are_right: np.ndarray) -> dict[str, float]:
    """Returns the share of right answers, and its standard error."""
    share = float(are_right.mean())
    return {name: share, f"{name}_error": math.sqrt(share * (1 - share) / len(are_right))}
