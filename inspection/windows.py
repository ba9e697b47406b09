"""Windows of a held-out text that measurements are made on, and means over them with errors."""

import numpy as np

NUM_WINDOWS = 64
# Memory and time of attention weights grow with the square of it.
MAX_LENGTH = 256


def spread(tokens: np.ndarray, context_length: int) -> np.ndarray:
    """Returns at most NUM_WINDOWS windows of T + 1 tokens, spread evenly over a text, int32.

    T is the context length, but at most MAX_LENGTH; the last T tokens are the targets. Each begins
    where a window of an exact evaluation may: at a multiple of T, so at a record of a made text.
    """
    length = min(context_length, MAX_LENGTH, len(tokens) - 1)
    whole = (len(tokens) - 1) // length
    firsts = length * np.linspace(0, whole - 1, min(NUM_WINDOWS, whole)).astype(int)
    return tokens[firsts[:, None] + np.arange(length + 1)].astype(np.int32)


def mean_and_error(name: str, values_CN: np.ndarray) -> dict[str, list[float | None]]:
    """Returns the mean of each row, and its standard error as `name`_error.

    One value has no error: None.
    """
    values_CN = np.asarray(values_CN, np.float64)
    num = values_CN.shape[1]
    errors = [None] * len(values_CN)
    if num > 1:
        errors = (values_CN.std(axis=1, ddof=1) / num**0.5).tolist()
    return {name: values_CN.mean(axis=1).tolist(), f"{name}_error": errors}
