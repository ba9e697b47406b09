"""Position encodings that came after GPT-2's learned one, for models/gpt2_variants.py."""

import jax
import jax.numpy as jnp
import numpy as np

from models.layers import Position


def apply_rope(x_BTHK: jax.Array, start: Position) -> jax.Array:
    """Applies the rotary position embedding (RoPE, Su et al., 2021) to tokens from `start` on.

    Dimension k is rotated together with k + K / 2, as in GPT-NeoX and Llama.
    """
    T, K = x_BTHK.shape[1], x_BTHK.shape[-1]
    frequency_K = 10_000.0 ** (-jnp.arange(K // 2) / (K // 2))
    angle_T1K = ((start + jnp.arange(T))[:, None] * frequency_K[None])[:, None]
    cos_1T1K, sin_1T1K = jnp.cos(angle_T1K)[None], jnp.sin(angle_T1K)[None]
    one, other = jnp.split(x_BTHK, 2, axis=-1)
    rotated = one * cos_1T1K - other * sin_1T1K, other * cos_1T1K + one * sin_1T1K
    return jnp.concatenate(rotated, axis=-1)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Returns each head's penalty on scores per token of distance, [H]: ALiBi (Press et al., 2021).

    A geometric sequence from 2 ** (-8 / H) on. If H is no power of two, the authors take the
    sequence of the power below, then every other element of that of the power above.
    """
    power = 2 ** int(np.log2(num_heads))
    row = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * (num_heads - power), 2))
    return np.concatenate([row, between]).astype(np.float32)


def alibi_penalties(slopes_H: np.ndarray, start: Position, T: int, S: int) -> jax.Array:
    """Returns ALiBi's penalties [H, T, S]: slope times the distance in tokens from key to query."""
    distance_TS = start + jnp.arange(T)[:, None] - jnp.arange(S)[None, :]
    return jnp.multiply.outer(slopes_H, distance_TS)
