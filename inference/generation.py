"""Text generation, token by token, with a key/value cache."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from inference.sampling import Sampling, sample_token
from models.layers import change_cache
from runtime import programs

# Tokens per dispatch: enough to hide the host's work, few enough to watch a text grow.
CHUNK = 8
# From this many samples on, reading keys and values is most of the work.
MANY_SAMPLES = 8


class Text(NamedTuple):
    """B texts of the same length; the model sees a window of each."""

    window_BT: jax.Array  # The last tokens, padded to the context length.
    length: jax.Array  # Tokens in the window, without the padding.
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
    """Yields the continuation of `prompt` (1-d, at least one token id) in chunks.

    A chunk is int32 [num_samples, up to CHUNK]. A sample depends on the seed and on its index, not
    on `num_samples`, and no two samples share random draws.
    """
    seen = prompt[-context_length:]
    window_BT = np.zeros((num_samples, context_length), np.int32)
    window_BT[:, : len(seen)] = seen
    begin_args = window_BT, np.int32(len(seen)), np.uint32(seed)
    begin = programs.compiled("begin", "a text", begin_args, partial(_begin.lower, *begin_args))
    text = _with_sharding_of(params, begin(*begin_args))
    # Once the window is full and slides, every token gets another position, which invalidates the
    # cache. Until then each token is read once.
    num_cached = min(num_tokens, context_length - len(seen) + 1)
    # Attention reads all the room in the cache. With many samples that is slow, so the cache starts
    # small and grows; with few it has its final size, and one program serves.
    room = num_cached if num_samples < MANY_SAMPLES else 1
    size = _padded_size(len(seen) + room, context_length)
    # The keys and values of the padding are overwritten before any token attends to them.
    tokens_1T = window_BT[:1, : _padded_size(len(seen), size)] if len(seen) > 1 else None
    read = programs.for_model(_read_prompt, (model, size, num_samples), (params, tokens_1T))
    cache = _with_sharding_of(params, read(params, tokens_1T))
    write = None
    for made in range(0, num_cached, CHUNK):
        count = min(CHUNK, num_cached - made)
        if size < (needed := len(seen) + made + count - 1):
            size = _padded_size(needed, context_length)
            cache = programs.for_model(_grown, (model, num_samples, size), (cache,))(cache)
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
    """Returns texts of `length` tokens, each with its own random generator."""
    rng = jax.random.key(seed)
    rngs_B = jax.vmap(partial(jax.random.fold_in, rng))(jnp.arange(len(window_BT)))
    return Text(window_BT, length, jnp.int32(0), rngs_B)


def _with_sharding_of(params: Any, tree: Any) -> Any:
    """Returns `tree` with the sharding that the programs return, so that each compiles once."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array):
            return jax.device_put(tree, leaf.sharding)
    return tree  # NumPy's arrays, or no parameters.


def _padded_size(size: int, most: int) -> int:
    """Returns a power of two from 64 on that holds `size`, so that few programs are compiled."""
    return min(most, max(64, 1 << (size - 1).bit_length()))


def _apply_cached(
    model: nn.Module, params: Any, cache: Any, tokens_BT: jax.Array, start: int | jax.Array
) -> tuple[jax.Array, Any]:
    """Returns logits [B, T, V] and the cache with the keys and values of `tokens` added."""
    logits_BTV, variables = model.apply(
        {"params": params, "cache": cache}, tokens_BT, start=start, mutable=["cache"]
    )
    return logits_BTV, variables.get("cache", {})  # A bigram has no cache.


# XLA's default CPU matrix library is tuned for many rows; here a product has one row a sample.
_jit = partial(jax.jit, compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""})


@partial(_jit, static_argnames=("model", "size", "num_samples"))
def _read_prompt(
    model: nn.Module, size: int, num_samples: int, params: Any, tokens_1T: jax.Array | None
) -> Any:
    """Returns a cache of `size` positions that holds `tokens`, if any, once per sample."""
    token_11 = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    described = jax.eval_shape(partial(_apply_cached, model), params, {}, token_11, 0)[1]
    whole = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), described)
    cache = change_cache(whole, 1, lambda x: x[:, :size])
    if tokens_1T is not None:
        cache = _apply_cached(model, params, cache, tokens_1T, 0)[1]
    return change_cache(cache, 1, partial(jnp.repeat, repeats=num_samples, axis=0))


@partial(_jit, static_argnames=("model", "num_samples", "size"))
def _grown(model: nn.Module, num_samples: int, size: int, cache: Any) -> Any:
    """Returns the cache of `num_samples` texts with `size` positions."""
    del model  # Part of the program's cache key.

    def grow(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, size - n if axis == 1 else 0) for axis, n in enumerate(x.shape)])

    return change_cache(cache, num_samples, grow)


@partial(_jit, static_argnames=("model", "sampling"), donate_argnames=("text", "cache"))
def _write_cached(
    model: nn.Module, sampling: Sampling, params: Any, text: Text, cache: Any, count: int
) -> tuple[Text, Any, jax.Array]:
    """Returns `text` with `count` more tokens, the cache of all but the last, and those tokens."""

    def write_token(n, carry):
        text, cache, tokens_BC = carry
        last = text.length - 1
        token_B1 = jax.lax.dynamic_slice_in_dim(text.window_BT, last, 1, axis=1)
        logits_B1V, cache = _apply_cached(model, params, cache, token_B1, last)
        text, token_B = _append(sampling, text, logits_B1V[:, 0])
        return text, cache, tokens_BC.at[:, n].set(token_B)

    tokens_BC = jnp.zeros((len(text.window_BT), CHUNK), jnp.int32)
    return jax.lax.fori_loop(0, count, write_token, (text, cache, tokens_BC))


@partial(_jit, static_argnames=("model", "sampling"), donate_argnames="text")
def _write_windowed(
    model: nn.Module, sampling: Sampling, params: Any, text: Text, count: int
) -> tuple[Text, jax.Array]:
    """Returns `text`, whose window is full, with `count` more tokens, and those [B, CHUNK]."""

    def write_token(n, carry):
        text, tokens_BC = carry
        logits_BTV = model.apply({"params": params}, text.window_BT)
        assert isinstance(logits_BTV, jax.Array)  # Flax would return a tuple for `mutable`.
        text, token_B = _append(sampling, text, logits_BTV[:, -1])
        return text, tokens_BC.at[:, n].set(token_B)

    tokens_BC = jnp.zeros((len(text.window_BT), CHUNK), jnp.int32)
    return jax.lax.fori_loop(0, count, write_token, (text, tokens_BC))


def _append(sampling: Sampling, text: Text, logits_BV: jax.Array) -> tuple[Text, jax.Array]:
    """Returns `text` with one more token, drawn from `logits`, and that token [B]."""
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
