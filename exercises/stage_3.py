"""Exercises of stage 3, attention with several heads. Check them: python -m exercises.check 3

Letters: B texts in a batch, T positions, D width of an embedding, H heads, K = D / H width of each.
An array's name ends in the letters of its axes.
"""

import numpy as np


def split_heads(x_BTD: np.ndarray, num_heads: int) -> np.ndarray:
    """3.1, write: returns [B, H, T, K], the input cut into heads.

    Head h gets the columns h * K to (h + 1) * K - 1 of each position.
    """
    raise NotImplementedError


def merge_heads(x_BHTK: np.ndarray) -> np.ndarray:
    """3.1, write: returns [B, T, D], the heads side by side again: undoes split_heads."""
    raise NotImplementedError


def best_number_of_heads() -> int:
    """3.2, predict: returns the number of heads, 1, 2, 4, 8 or 16, with the lowest loss.

    This project trained stage 3 with each number: the same width D = 128, as many parameters, the
    same compute, three seeds. The check reads the losses from docs/measured/heads.json; decide
    before you look.
    """
    raise NotImplementedError


def two_and_five_back() -> dict[str, np.ndarray]:
    """3.3, set weights by hand: returns two heads; head 1 looks 2 back, head 2 looks 5 back.

    Return {"position": [T, D], "query": [D, D], "key": [D, D]} for T = 16 positions and an even
    width D of your choice, at most 128. Both heads are K = D / 2 wide: columns 0 to K - 1 of x @
    query and x @ key are head 1's. Tokens are embedded as zeros. Each position from 2 on must give
    more than 0.9 of head 1's weight to the position 2 back, and from 5 on of head 2's to the
    position 5 back.
    """
    raise NotImplementedError
