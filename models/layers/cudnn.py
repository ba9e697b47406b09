"""Attention by cuDNN's fused kernel on an NVIDIA GPU.

It never writes the T x T weights to GPU memory: forward and backward recompute them on the chip
(FlashAttention, Dao et al., 2022).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.layers import target
from runtime.devices import BATCH


def can_attend(query: jax.Array) -> bool:
    """Returns True if the kernel takes queries [B, T, H, K] on this device in this precision.

    It needs bfloat16, compute capability 8.0 (Ampere), and a head width that is a multiple of 8
    up to 128.
    """
    K = query.shape[-1]
    fits = query.ndim == 4 and K % 8 == 0 and K <= 128
    return fits and target.is_bfloat16() and target.current().compute_capability >= 8


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Returns causal attention over [B, T, H, K] from start=0, in float32.

    On a mesh each device runs the kernel on its rows and heads; the compiler can't divide a kernel.
    """
    B, T, H, _ = query.shape
    factors = (x.astype(jnp.bfloat16) for x in (query, key[:, :T], value[:, :T]))
    kernel = partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        heads = "tensor" if H % mesh.shape["tensor"] == 0 else None
        rows = BATCH if B % (mesh.size // mesh.shape["tensor"]) == 0 else None
        part = PartitionSpec(rows, None, heads, None)
        kernel = jax.shard_map(kernel, in_specs=(part,) * 3, out_specs=part, check_vma=False)
    return kernel(*factors).astype(jnp.float32)
