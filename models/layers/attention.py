"""Causal attention that skips most of the scores that its mask hides."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.layers import cudnn, reference

# Blocks of fewer queries cost more than they save; the scores of more leave the caches.
MAX_BLOCKS, MIN_ROWS, MAX_ROWS = 4, 64, 256


def in_query_blocks(attention: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns `attention` computed in blocks, equal up to the floating-point summation order.

    For a text from its beginning (start=0), each block of queries takes only the keys up to its
    end, which skips three quarters of the masked scores or more. cuDNN's kernel replaces the blocks
    on a GPU that has it. `attention(query, key, value, *, start=0, **options)` is the reference
    definition; the kernel computes it without options.
    """

    @functools.wraps(attention)
    def attend(query, key, value, *, start=0, **options):
        if reference.is_forced() or not isinstance(start, int) or start:
            return attention(query, key, value, start=start, **options)
        if not options and cudnn.can_attend(query):
            return cudnn.attend(query, key, value)
        T = query.shape[1]
        rows = min(max(-(-T // MAX_BLOCKS), MIN_ROWS), MAX_ROWS)
        blocks = [
            attention(
                query[:, first : first + rows],
                key[:, : first + rows],
                value[:, : first + rows],
                start=first,
                **options,
            )
            for first in range(0, T, rows)
        ]
        return jnp.concatenate(blocks, axis=1)

    return attend


class AttentionWeights(nn.Module):
    """Identity, without parameters, on weights [B, ..., T, S]: where interceptors see them."""

    def __call__(self, weights: jax.Array) -> jax.Array:
        return weights


def expose(weights: jax.Array) -> jax.Array:
    """Returns `weights`; in the reference implementation, `inspection/` reads and replaces them.

    There they pass through the sub-module `weights` of the attention that calls this.
    """
    return AttentionWeights(name="weights")(weights) if reference.is_forced() else weights
