"""Attention by cuDNN's fused kernel, where there is an NVIDIA GPU that has one.

It never writes the T x T weights: forward and backward make them anew in the chip's own memory
(Dao et al., 2022).
"""

import jax
import jax.numpy as jnp

from models.layers import target


def can_attend(query: jax.Array) -> bool:
    """Returns True if the kernel takes queries [B, T, H, K] here, in the precision asked for.

    It has bfloat16 and no float32, from compute capability 8.0 (Ampere) on, and widths of a head
    that are multiples of 8 up to 128.
    """
    if jax.config.jax_default_matmul_precision != "bfloat16":
        return False
    K = query.shape[-1]
    fits = query.ndim == 4 and K % 8 == 0 and K <= 128
    return fits and target.current().compute_capability >= 8


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Returns causal attention over [B, T, H, K], each text from its beginning, in float32."""
    T = query.shape[1]
    factors = (x.astype(jnp.bfloat16) for x in (query, key[:, :T], value[:, :T]))
    y_BTHK = jax.nn.dot_product_attention(*factors, is_causal=True, implementation="cudnn")
    return y_BTHK.astype(jnp.float32)
