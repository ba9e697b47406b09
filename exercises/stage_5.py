"""Exercises of stage 5, GPT-2. Check them: python -m exercises.check 5

Letters: V tokens that exist, T positions, D width of the residual stream, L blocks.
"""

from typing import Any

import numpy as np


def gelu(x: np.ndarray) -> np.ndarray:
    """5.1, write: returns GELU of each element, in GPT-2's tanh form.

    x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
    """
    raise NotImplementedError


def gpt2_parameters(V: int, T: int, D: int, L: int) -> int:
    """5.2, predict: returns the number of parameters of a GPT-2.

    V tokens and T positions are embedded in D numbers each. Each of the L blocks has two LayerNorms
    (scale and shift), four dense layers D -> D (query, key, value, out), and the MLP's two,
    D -> 4 D and 4 D -> D. All dense layers have biases. A last LayerNorm follows. The logits reuse
    the embedding of the tokens. The check counts GPT-2 small and two others.
    """
    raise NotImplementedError


def config_changes() -> dict[str, Any]:
    """5.3, train: returns changes to a config, so that a run within a budget beats counted pairs.

    The run is `gpt2:smoke`; its keys are those of experiments/default.py, for example
    {"optimizer.learning_rate": 3e-3, "train.batch_size": 8}. The budget: at most 20,000 parameters
    (model.embed_dim, model.num_layers, model.context_length), 300 updates (train.num_steps), and
    300,000 tokens (updates x train.batch_size x model.context_length). Its loss on the validation
    split must be below that of a table of pairs, counted in the training split (exercise 1.3).
    The check trains it, for at most 45 seconds. Only keys of model, optimizer and train may change.
    """
    raise NotImplementedError
