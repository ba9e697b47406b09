"""Solutions of exercises/stage_4.py; the head is that of the run that tests write."""

import numpy as np


def layer_norm(x_BTD, scale_D, shift_D, epsilon):
    mean = x_BTD.mean(-1, keepdims=True)
    variance = ((x_BTD - mean) ** 2).mean(-1, keepdims=True)
    return (x_BTD - mean) / np.sqrt(variance + epsilon) * scale_D + shift_D


def block(x_BTD, attention_norm, attention, mlp_norm, mlp):
    x_BTD = x_BTD + attention(attention_norm(x_BTD))
    return x_BTD + mlp(mlp_norm(x_BTD))


def previous_token_head():
    return 1, 2
