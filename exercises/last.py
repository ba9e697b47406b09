"""The last exercise, over all stages. Check it: python -m exercises.check 6

Letters: B texts in a batch, T positions, D width of the residual stream, H heads, V tokens that
exist. An array's name ends in the letters of its axes.
"""

from typing import Any

import numpy as np


def decoder_logits(params: dict[str, Any], tokens_BT: np.ndarray, num_heads: int) -> np.ndarray:
    """6.1, write: returns the logits [B, T, V] of stage 4's decoder, in NumPy alone.

    `params` is the tree of parameters as nested dicts of arrays:

        embed: token: embedding [V, D];  position: embedding [context, D]
        block_0, block_1, ...:
            attention_norm, mlp_norm: scale [D], bias [D]
            attention: query, key, value, out: kernel [D, D]
            mlp: up: kernel [D, 4 D], bias [4 D];  down: kernel [4 D, D], bias [D]
        final_norm: scale [D], bias [D]
        logits: kernel [D, V], bias [V]

    A dense layer is x @ kernel + bias. The MLP has a ReLU between its layers. The epsilon of the
    norms is 1e-5. The number of blocks is the number of keys that begin with block_.
    """
    raise NotImplementedError
