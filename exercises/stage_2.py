"""Exercises of stage 2, self-attention. Check them: python -m exercises.check 2

Letters: T query positions, S key positions (here S = T), D width of an embedding, K width of a
query, a key or a value. An array's name ends in the letters of its axes.
"""

import numpy as np


def causal_attention(query_TK: np.ndarray, key_TK: np.ndarray, value_TK: np.ndarray) -> np.ndarray:
    """2.1, write: returns the attention of one text, [T, K], written as loops.

    Position t looks at the positions s = 0 ... t, itself among them. Its score for s is the sum
    over k of query[t, k] * key[s, k], divided by sqrt(K). Its weights are the softmax of its
    scores, and row t of the result is the average of value[s] with these weights.
    """
    raise NotImplementedError


def loss_without_mask() -> float:
    """2.2, predict: returns the loss of self-attention trained and measured without its mask.

    Each of the 16 positions of a window then sees all 16 characters, not only those before it. The
    target of position t is still the character t + 1. Return the loss in nats per character on the
    validation split after 300 updates. The check trains this model; a difference of 0.5 is right.
    """
    raise NotImplementedError


def five_back() -> dict[str, np.ndarray]:
    """2.3, set weights by hand: returns a head that looks exactly 5 tokens back.

    Return {"position": [T, D], "query": [D, D], "key": [D, D]} for T = 16 positions and a width D
    of your choice, at most 64: the embeddings of positions, and the matrices (Flax: kernels) that
    turn a row x of them into the query x @ query and the key x @ key. Tokens are embedded as zeros
    here, so that attention sees positions alone. The check loads your weights into SelfAttention of
    models/self_attention.py. Each position t from 5 on must give more than 0.9 of its weight to
    position t - 5.
    """
    raise NotImplementedError
