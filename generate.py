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

import checkpoint
import errors
import programs
import runtime
from input_pipeline.tokenizers import Tokenizer
from terminal import inert_lines

# Tokens made between two looks by the host: long enough to hide its work, short enough to watch.
CHUNK = 8


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
    """What is being written: B texts of the same length, of which the model sees a window.

    The window moves on by one token when it is full. Learned positions then change for every
    token in it, so the cache is of no more use: `num_cached` falls to 0, and each further token
    is read off the whole window, as a full forward pass would.
    """

    window_BT: jax.Array  # The last tokens, padded to the context length.
    length: jax.Array  # How many of them are there.
    cache: Any  # Keys and values of the first `num_cached` of them.
    num_cached: jax.Array
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
    text = _start(model, params, prompt, context_length, seed, num_samples)
    write_chunk = programs.for_model(_write_chunk, (model, sampling), (params, text))
    for made in range(0, num_tokens, CHUNK):
        text, tokens_BC = write_chunk(params, text)
        yield np.asarray(tokens_BC)[:, : num_tokens - made]


def _start(
    model: nn.Module,
    params: Any,
    prompt: np.ndarray,
    context_length: int,
    seed: int,
    num_samples: int,
) -> Text:
    seen = prompt[-context_length:]
    window = np.zeros((num_samples, context_length), np.int32)
    window[:, : len(seen)] = seen
    args = params, window, np.int32(len(seen)), np.uint32(seed)
    text = programs.for_model(_start_text, (model,), args)(*args)
    # Laid out as the program will give it back, or its second call would compile it again.
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array):
            return jax.device_put(text, leaf.sharding)
    return text  # NumPy's arrays, or none at all.


@partial(jax.jit, static_argnames="model")
def _start_text(
    model: nn.Module, params: Any, window_BT: jax.Array, length: jax.Array, seed: jax.Array
) -> Text:
    cache = jax.eval_shape(partial(_read, model), params, {}, window_BT, 0)[1]
    rng = jax.random.key(seed)
    return Text(
        window_BT=window_BT,
        length=length,
        cache=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), cache),
        num_cached=jnp.int32(0),
        num_made=jnp.int32(0),
        rngs_B=jax.vmap(partial(jax.random.fold_in, rng))(jnp.arange(len(window_BT))),
    )


def _read(
    model: nn.Module, params: Any, cache: Any, tokens_BT: jax.Array, start: int | jax.Array
) -> tuple[jax.Array, Any]:
    """Logits [B, T, V] after each of `tokens`, and the cache with their keys and values in it."""
    logits_BTV, variables = model.apply(
        {"params": params, "cache": cache}, tokens_BT, start=start, mutable=["cache"]
    )
    return logits_BTV, variables.get("cache", {})  # A bigram has nothing to keep.


@partial(jax.jit, static_argnames=("model", "sampling"), donate_argnames="text")
def _write_chunk(
    model: nn.Module, sampling: Sampling, params: Any, text: Text
) -> tuple[Text, jax.Array]:
    """`text` with CHUNK more tokens, and those tokens [B, CHUNK]."""
    text, tokens_CB = jax.lax.scan(
        lambda text, _: _write_token(model, sampling, params, text), text, length=CHUNK
    )
    return text, tokens_CB.T


def next_logits(model: nn.Module, params: Any, text: Text) -> tuple[jax.Array, Any]:
    """Logits [B, V] of the token after `text`, and its cache brought up to date."""
    last = text.length - 1

    def read_window():
        # The padding is read too: its keys and values are overwritten before they can be seen.
        logits_BTV, cache = _read(model, params, text.cache, text.window_BT, 0)
        return jax.lax.dynamic_index_in_dim(logits_BTV, last, axis=1, keepdims=False), cache

    def read_last_token():
        token_B1 = jax.lax.dynamic_slice_in_dim(text.window_BT, last, 1, axis=1)
        logits_B1V, cache = _read(model, params, text.cache, token_B1, last)
        return logits_B1V[:, 0], cache

    return jax.lax.cond(text.num_cached == last, read_last_token, read_window)


def _write_token(
    model: nn.Module, sampling: Sampling, params: Any, text: Text
) -> tuple[Text, jax.Array]:
    logits_BV, cache = next_logits(model, params, text)
    rngs_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(text.rngs_B, text.num_made)
    token_B = jax.vmap(partial(sample_token, sampling))(logits_BV, rngs_B)

    T = text.window_BT.shape[1]
    is_full = text.length == T
    window_BT = jnp.where(is_full, jnp.roll(text.window_BT, -1, axis=1), text.window_BT)
    position = jnp.minimum(text.length, T - 1)
    text = text._replace(
        window_BT=jax.lax.dynamic_update_slice_in_dim(window_BT, token_B[:, None], position, 1),
        length=position + 1,
        cache=cache,
        num_cached=jnp.where(is_full, 0, text.length),
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
    trained = checkpoint.load(Path(flag.workdir), flag.checkpoint)
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
    flags.DEFINE_string("workdir", None, "Run folder.", required=True)
    flags.DEFINE_string("prompt", "\n", "What the text continues.")
    flags.DEFINE_integer("num_tokens", 500, "How many tokens to add.")
    flags.DEFINE_float("temperature", 0.8, "Below 1 prefers likely tokens; 0 takes the likeliest.")
    flags.DEFINE_integer("top_k", 0, "Draws from the k likeliest tokens; 0 from all.")
    flags.DEFINE_float("top_p", 1.0, "Draws from the likeliest that hold this share.")
    flags.DEFINE_integer("seed", 0, "Another seed is another text.")
    flags.DEFINE_integer("num_samples", 1, "Texts, made side by side.")
    flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step.")
    runtime.configure_jax()
    errors.run_command(main)
