"""Causal attention without computing most of what its mask hides."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from models.layers import cudnn, reference

# Blocks of queries that a text is cut into, and the rows that a block has at least: shorter ones
# cost more than they save.
MOST_BLOCKS, FEWEST_ROWS = 4, 64


def in_query_blocks(attention: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the same causal attention, computed in blocks; it differs in summation order.

    A text that is read from its beginning is cut into blocks of queries, each with the keys up to
    its end: three quarters of what the mask hides is never computed. On a GPU one kernel does it
    all. `attention(query, key, value, *, start=0, **options)` is the definition; options other
    than its defaults keep it from that kernel.
    """

    @functools.wraps(attention)
    def attend(query, key, value, *, start=0, **options):
        if reference.is_forced() or not isinstance(start, int) or start:
            return attention(query, key, value, start=start, **options)
        if not options and cudnn.can_attend(query):
            return cudnn.attend(query, key, value)
        T = query.shape[1]
        rows = max(-(-T // MOST_BLOCKS), FEWEST_ROWS)
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
