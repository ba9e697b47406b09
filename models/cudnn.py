"""Attention by cuDNN's fused kernel, where there is an NVIDIA GPU that has one.

It never writes the T x T weights: forward and backward make them anew in the chip's own memory
(Dao et al., 2022).
"""

import jax
import jax.numpy as jnp


def can_attend(query: jax.Array) -> bool:
    """Whether the kernel takes queries [B, T, H, K] here, in the precision that is asked for.

    It has bfloat16 and no float32, from compute capability 8.0 (Ampere) on, and widths of a head
    that are multiples of 8 up to 128.
    """
    if jax.config.jax_default_matmul_precision != "bfloat16" or jax.default_backend() != "gpu":
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    K = query.shape[-1]
    return query.ndim == 4 and K % 8 == 0 and K <= 128 and float(capability) >= 8


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Causal attention over [B, T, H, K], each text from its beginning; float32 out."""
    T = query.shape[1]
    factors = (x.astype(jnp.bfloat16) for x in (query, key[:, :T], value[:, :T]))
    y_BTHK = jax.nn.dot_product_attention(*factors, is_causal=True, implementation="cudnn")
    return y_BTHK.astype(jnp.float32)
