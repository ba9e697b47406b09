"""Exercises of stage 4, the transformer decoder. Check them: python -m exercises.check 4

Letters: B texts in a batch, T positions, D width of the residual stream. An array's name ends in
the letters of its axes.
"""

from collections.abc import Callable

import numpy as np

Layer = Callable[[np.ndarray], np.ndarray]


def layer_norm(
    x_BTD: np.ndarray, scale_D: np.ndarray, shift_D: np.ndarray, epsilon: float
) -> np.ndarray:
    """4.1, write: returns the normalized input, [B, T, D].

    The D features of each position get mean 0 and variance 1, are multiplied by the scale, and get
    the shift added. The variance is the mean of (x - mean)^2 over D. `epsilon` is added to it
    before its square root, so that features that are all equal do not divide by 0.
    """
    raise NotImplementedError


def block(
    x_BTD: np.ndarray, attention_norm: Layer, attention: Layer, mlp_norm: Layer, mlp: Layer
) -> np.ndarray:
    """4.2, write: returns the output of a transformer block, [B, T, D].

    The four layers are functions of one array [B, T, D] that return another. Attention gets the
    normalized stream, and its result is added to the stream. Then the same with the MLP and its own
    norm, on the stream as it is now.
    """
    raise NotImplementedError


def previous_token_head() -> tuple[int, int]:
    """4.3, find: returns (block, head), both counted from 1, in your own decoder.

    Find the head that gives the most weight, on average, to the token just before. The check opens
    the run of stage 4 in runs/ladder, which `make ladder` trains; --run=FOLDER names another.
    Look into it with python look_inside.py runs/ladder.
    """
    raise NotImplementedError
