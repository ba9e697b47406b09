"""Texts that a model writes, token by token, with keys and values of the past in a cache."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from inference.sampling import Sampling, sample_token
from runtime import programs

# Tokens made between two looks by the host: long enough to hide its work, short enough to watch.
CHUNK = 8
# Texts that together have so many keys and values that reading them is most of the work.
MANY = 8


class Text(NamedTuple):
    """B texts of the same length that are being written; the model sees a window of each."""

    window_BT: jax.Array  # The last tokens, padded to the context length.
    length: jax.Array  # How many of them are there.
    num_made: jax.Array
    rngs_B: jax.Array


def generate(
    model: nn.Module,
    params: Any,
    prompt: np.ndarray,
    *,
    num_tokens: int,
    context_length: int,
    sampling: Sampling,
    seed: int,
    num_samples: int = 1,
) -> Iterator[np.ndarray]:
    """Yields what follows `prompt` (token ids, at least one), [num_samples, up to CHUNK] a time.

    A sample depends on the seed and on its number, not on how many there are, and no sample
    shares another's draws.
    """
    seen = prompt[-context_length:]
    window = np.zeros((num_samples, context_length), np.int32)
    window[:, : len(seen)] = seen
    args = window, np.int32(len(seen)), np.uint32(seed)
    begin = programs.compiled("begin", "a text", args, partial(_begin.lower, *args))
    text = _laid_out_as(params, begin(*args))
    # Learned positions change for every token of a window that moves on, and what was kept of them
    # is of no more use. Until then a token is read once, and what attention needs of it is kept.
    num_cached = min(num_tokens, context_length - len(seen) + 1)
    # Each token is compared with all that the cache has room for: of many texts it grows with them.
    # Of a few it is soon read, and one program serves.
    room = num_cached if num_samples < MANY else 1
    size = _padded_size(len(seen) + room, context_length)
    tokens_1T = None
    if len(seen) > 1:
        # The padding is read, too: what it leaves is overwritten before it can be seen.
        tokens_1T = np.zeros((1, _padded_size(len(seen), size)), np.int32)
        tokens_1T[0, : len(seen)] = seen
    args = params, tokens_1T
    cache = programs.for_model(_read_prompt, (model, size, num_samples), args)(*args)
    cache = _laid_out_as(params, cache)
    write = None
    for made in range(0, num_cached, CHUNK):
        count = min(CHUNK, num_cached - made)
        if size < (needed := len(seen) + made + count - 1):
            size = _padded_size(needed, context_length)
            cache = programs.for_model(_grown, (model, size), (cache,))(cache)
            write = None
        if write is None:
            args = params, text, cache, np.int32(0)
            write = programs.for_model(_write_cached, (model, sampling), args)
        text, cache, tokens_BC = write(params, text, cache, np.int32(count))
        yield np.asarray(tokens_BC)[:, :count]
    if num_cached == num_tokens:
        return
    del cache
    write = programs.for_model(_write_windowed, (model, sampling), (params, text, np.int32(0)))
    for made in range(num_cached, num_tokens, CHUNK):
        count = min(CHUNK, num_tokens - made)
        text, tokens_BC = write(params, text, np.int32(count))
        yield np.asarray(tokens_BC)[:, :count]


@jax.jit
def _begin(window_BT: jax.Array, length: jax.Array, seed: jax.Array) -> Text:
    """The text of which `length` tokens are there, with a random number generator for each row."""
    rng = jax.random.key(seed)
    rngs_B = jax.vmap(partial(jax.random.fold_in, rng))(jnp.arange(len(window_BT)))
    return Text(window_BT, length, jnp.int32(0), rngs_B)


def _laid_out_as(params: Any, tree: Any) -> Any:
    """`tree` where the programs will give it back, or their second call would compile them anew."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array):
            return jax.device_put(tree, leaf.sharding)
    return tree  # NumPy's arrays, or none at all.


def _padded_size(size: int, most: int) -> int:
    """The power of two from 64 on that holds `size`: few sizes, so few programs to compile."""
    return min(most, max(64, 1 << (size - 1).bit_length()))


def _read(
    model: nn.Module, params: Any, cache: Any, tokens_BT: jax.Array, start: int | jax.Array
) -> tuple[jax.Array, Any]:
    """Logits [B, T, V] after each of `tokens`, and the cache with their keys and values in it."""
    logits_BTV, variables = model.apply(
        {"params": params, "cache": cache}, tokens_BT, start=start, mutable=["cache"]
    )
    return logits_BTV, variables.get("cache", {})  # A bigram has nothing to keep.


# XLA's usual library for products on a CPU is made for many rows; a token is one.
_jit = partial(jax.jit, compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""})


@partial(_jit, static_argnames=("model", "size", "num_samples"))
def _read_prompt(
    model: nn.Module, size: int, num_samples: int, params: Any, tokens_1T: jax.Array | None
) -> Any:
    """A cache with room for `size` tokens, and in it, once for each sample, `tokens` if any."""
    token_11 = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    described = jax.eval_shape(partial(_read, model), params, {}, token_11, 0)[1]
    cache = jax.tree.map(
        lambda leaf: jnp.zeros((*leaf.shape[:-2], size, leaf.shape[-1]), leaf.dtype), described
    )
    if tokens_1T is not None:
        cache = _read(model, params, cache, tokens_1T, 0)[1]
    return jax.tree.map(partial(jnp.repeat, repeats=num_samples, axis=0), cache)


@partial(_jit, static_argnames=("model", "size"))
def _grown(model: nn.Module, size: int, cache: Any) -> Any:
    """The cache of a model with room for `size` tokens."""
    del model  # Which tells this program from those for other caches.

    def grow(leaf: jax.Array) -> jax.Array:
        *leading, _, K = leaf.shape
        return jnp.zeros((*leading, size, K), leaf.dtype).at[..., : leaf.shape[-2], :].set(leaf)

    return jax.tree.map(grow, cache)


@partial(_jit, static_argnames=("model", "sampling"), donate_argnames=("text", "cache"))
def _write_cached(
    model: nn.Module, sampling: Sampling, params: Any, text: Text, cache: Any, count: int
) -> tuple[Text, Any, jax.Array]:
    """`text` with `count` more tokens, and those [B, CHUNK]; `cache` has all but its last one."""

    def write_token(n, carry):
        text, cache, tokens_BC = carry
        last = text.length - 1
        token_B1 = jax.lax.dynamic_slice_in_dim(text.window_BT, last, 1, axis=1)
        logits_B1V, cache = _read(model, params, cache, token_B1, last)
        text, token_B = _append(sampling, text, logits_B1V[:, 0])
        return text, cache, tokens_BC.at[:, n].set(token_B)

    tokens_BC = jnp.zeros((len(text.window_BT), CHUNK), jnp.int32)
    return jax.lax.fori_loop(0, count, write_token, (text, cache, tokens_BC))


@partial(_jit, static_argnames=("model", "sampling"), donate_argnames="text")
def _write_windowed(
    model: nn.Module, sampling: Sampling, params: Any, text: Text, count: int
) -> tuple[Text, jax.Array]:
    """`text`, whose window is full, with `count` more tokens, each read off the whole window."""

    def write_token(n, carry):
        text, tokens_BC = carry
        logits_BTV = model.apply({"params": params}, text.window_BT)
        text, token_B = _append(sampling, text, logits_BTV[:, -1])
        return text, tokens_BC.at[:, n].set(token_B)

    tokens_BC = jnp.zeros((len(text.window_BT), CHUNK), jnp.int32)
    return jax.lax.fori_loop(0, count, write_token, (text, tokens_BC))


def _append(sampling: Sampling, text: Text, logits_BV: jax.Array) -> tuple[Text, jax.Array]:
    """`text` with a token more, drawn from `logits`, and that token [B]."""
    rngs_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(text.rngs_B, text.num_made)
    token_B = jax.vmap(partial(sample_token, sampling))(logits_BV, rngs_B)
    T = text.window_BT.shape[1]
    is_full = text.length == T
    window_BT = jnp.where(is_full, jnp.roll(text.window_BT, -1, axis=1), text.window_BT)
    position = jnp.minimum(text.length, T - 1)
    text = text._replace(
        window_BT=jax.lax.dynamic_update_slice_in_dim(window_BT, token_B[:, None], position, 1),
        length=position + 1,
        num_made=text.num_made + 1,
    )
    return text, token_B
