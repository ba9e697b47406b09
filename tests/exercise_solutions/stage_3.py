"""Solutions of exercises/stage_3.py."""

import numpy as np


def split_heads(x_BTD, num_heads):
    B, T, D = x_BTD.shape
    return x_BTD.reshape(B, T, num_heads, D // num_heads).transpose(0, 2, 1, 3)


def merge_heads(x_BHTK):
    B, H, T, K = x_BHTK.shape
    return x_BHTK.transpose(0, 2, 1, 3).reshape(B, T, H * K)


def best_number_of_heads():
    return 16


def two_and_five_back():
    T = 16
    query, key = np.zeros((2 * T, 2 * T)), np.zeros((2 * T, 2 * T))
    query[:T, :T], query[:T, T:] = 100 * np.eye(T, k=-2), 100 * np.eye(T, k=-5)
    key[:T, :T] = key[:T, T:] = np.eye(T)
    return {"position": np.eye(T, 2 * T), "query": query, "key": key}
