"""Solutions of exercises/stage_2.py."""

import math

import numpy as np


def causal_attention(query_TK, key_TK, value_TK):
    T, K = query_TK.shape
    out_TK = np.zeros((T, K))
    for t in range(T):
        scores = [query_TK[t] @ key_TK[s] / math.sqrt(K) for s in range(t + 1)]
        powers = [math.exp(score - max(scores)) for score in scores]
        for s in range(t + 1):
            out_TK[t] += powers[s] / sum(powers) * value_TK[s]
    return out_TK


def loss_without_mask():
    return 0.4


def five_back():
    position = np.eye(16)
    return {"position": position, "query": 100 * np.eye(16, k=-5), "key": np.eye(16)}
