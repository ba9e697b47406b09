"""Writes text with a trained model: `python generate.py --workdir=runs/x --prompt="ROMEO:"`.

The text goes to standard output as it is made, everything else to standard error.
"""

import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

import errors
import programs
import runtime
from input_pipeline.tokenizers import Tokenizer
from models import pretrained
from terminal import inert_lines

# Tokens made between two looks by the host: long enough to hide its work, short enough to watch.
CHUNK = 8
# Texts that together have so many keys and values that reading them is most of the work.
MANY = 8


class Sampling(NamedTuple):
    """How a token is drawn from logits; each limit is applied to what the one before left."""

    temperature: float = 1.0  # Divides the logits; 0 takes the likeliest token.
    top_k: int = 0  # Only the k likeliest tokens; 0 is no limit.
    top_p: float = 1.0  # Only the likeliest tokens that together hold this probability.

    def check(self, prefix: str) -> "Sampling":
        """Itself. Raises UserError for a value out of range, named with `prefix` before it."""
        if not 0 <= self.temperature < float("inf"):
            raise errors.UserError(f"{prefix}temperature={self.temperature}: expected 0 or more")
        if self.top_k < 0:
            raise errors.UserError(f"{prefix}top_k={self.top_k}: expected 0 (no limit) or more")
        if not 0 < self.top_p <= 1:
            raise errors.UserError(f"{prefix}top_p={self.top_p}: expected above 0 and at most 1")
        return self


class Text(NamedTuple):
    """What is being written: B texts of the same length, of which the model sees a window."""

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


def sample_token(sampling: Sampling, logits_V: jax.Array, rng: jax.Array) -> jax.Array:
    """One token id, drawn as `sampling` says."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_V)
    return jax.random.categorical(rng, limit_logits(sampling, logits_V))


def limit_logits(sampling: Sampling, logits_V: jax.Array) -> jax.Array:
    """Logits over the temperature, -inf where top-k or top-p (Holtzman et al., 2019) rules out."""
    logits_V = logits_V / sampling.temperature
    if sampling.top_k:
        kth = jax.lax.top_k(logits_V, min(sampling.top_k, len(logits_V)))[0][-1]
        logits_V = jnp.where(logits_V < kth, -jnp.inf, logits_V)
    if sampling.top_p < 1:
        descending_V = jnp.sort(logits_V, descending=True)
        before_V = jnp.cumsum(jax.nn.softmax(descending_V)) - jax.nn.softmax(descending_V)
        # A token stays if those before it do not fill the share yet; the likeliest always does.
        least = jnp.min(descending_V, where=before_V < sampling.top_p, initial=jnp.inf)
        logits_V = jnp.where(logits_V < least, -jnp.inf, logits_V)
    return logits_V


def stream_text(tokenizer: Tokenizer, chunks: Iterator[np.ndarray]) -> Iterator[str]:
    """The text of consecutive token ids (1-d arrays), in pieces that end with whole characters."""
    held_back = np.zeros(0, np.int32)
    for chunk in chunks:
        held_back = np.concatenate([held_back, chunk])
        text = tokenizer.decode(held_back)
        # A character may be spread over tokens, four bytes at the most; until the last of them
        # is there it decodes to U+FFFD.
        if not text.endswith("\ufffd"):
            yield text
            held_back = held_back[:0]
    yield tokenizer.decode(held_back)


def main() -> None:
    """Writes the first sample while it is made, and the others, made with it, after it."""
    flag = flags.FLAGS
    for name in ("num_tokens", "num_samples"):
        if flag[name].value < 1:
            raise errors.UserError(f"--{name}={flag[name].value}: expected 1 or more")
    sampling = Sampling(flag.temperature, flag.top_k, flag.top_p).check("--")
    trained = pretrained.open_model(Path(flag.workdir), flag.checkpoint)
    prompt = trained.tokenizer.encode(flag.prompt)
    if not len(prompt):
        raise errors.UserError("--prompt is empty: a model continues at least one token")
    print(f"{flag.workdir}, step {trained.step}", file=sys.stderr)
    made = generate(
        trained.model,
        trained.params,
        prompt,
        num_tokens=flag.num_tokens,
        context_length=trained.config.model.context_length,
        sampling=sampling,
        seed=flag.seed,
        num_samples=flag.num_samples,
    )
    # The first sample's rows are made as they are printed; the others' are there by then.
    first, *others = itertools.tee(made, flag.num_samples)
    show(flag.prompt, trained.tokenizer, (chunk[0] for chunk in first))
    for sample, chunks in enumerate(others, start=1):
        print(f"\nsample {sample + 1}:", file=sys.stderr, flush=True)
        show(flag.prompt, trained.tokenizer, (chunk[sample] for chunk in chunks))


def show(prompt: str, tokenizer: Tokenizer, chunks: Iterator[np.ndarray]) -> None:
    """Prints a prompt and, as its tokens come, what follows.

    As it is, unless a terminal reads it, which would obey what may stand in it.
    """
    shown = inert_lines if sys.stdout.isatty() else str
    for text in itertools.chain([prompt], stream_text(tokenizer, chunks)):
        print(shown(text), end="", flush=True)
    print(flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Run folder, or one of weights.", required=True)
    flags.DEFINE_string("prompt", "\n", "What the text continues.")
    flags.DEFINE_integer("num_tokens", 500, "How many tokens to add.")
    flags.DEFINE_float("temperature", 0.8, "Below 1 prefers likely tokens; 0 takes the likeliest.")
    flags.DEFINE_integer("top_k", 0, "Draws from the k likeliest tokens; 0 from all.")
    flags.DEFINE_float("top_p", 1.0, "Draws from the likeliest that hold this share.")
    flags.DEFINE_integer("seed", 0, "Another seed is another text.")
    flags.DEFINE_integer("num_samples", 1, "Texts, made side by side.")
    flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step.")
    runtime.configure_jax()
    # The module that training has, too: kept programs know Text by its name.
    from generate import main

    errors.run_command(main)
