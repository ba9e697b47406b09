"""Through the layers: the logit lens, the logit as a sum over parts, and activation patching.

The residual stream is what each block adds to: it is read at the input of its first block, after
the attention and after the MLP of each, and ends in the last norm and the head.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from inference import metrics
from inspection import context, interception, windows
from inspection.interception import Activations
from runtime import programs

NORM, HEAD = "final_norm", "logits"
# Of the sum of parts; float32 rounds each.
TOLERANCE = 1e-3
# Of the token that differs between two texts, from the target.
MIN_DISTANCE, MAX_DISTANCE = 3, 8
PAIR_LENGTH = 16
EMBEDDINGS = {"embed/token": "token", "embed/position": "position", "pair_embed": "pair"}


def blocks(model: nn.Module, params: Any) -> list[str]:
    """Returns the paths of a model's blocks, first to last; none for a model without a stream."""
    paths = [one.path.rpartition("/")[0] for one in interception.attentions(model, params)]
    return [path for path in paths if path]


# The logit lens.


def point_names(paths: list[str]) -> list[str]:
    """Returns what the points of the residual stream of such blocks are called."""
    of_blocks = [
        f"block {i} {part}" for i in range(1, len(paths) + 1) for part in ("attention", "MLP")
    ]
    return ["embeddings", *of_blocks]


def points(seen: Activations, paths: list[str]) -> list[jax.Array]:
    """Returns the residual stream at `point_names`, each [B, T, D]."""
    of_blocks = [
        x_BTD for path in paths for x_BTD in (seen.inputs[f"{path}/mlp_norm"], seen.outputs[path])
    ]
    return [seen.inputs[paths[0]], *of_blocks]


def lens(
    model: nn.Module,
    params: Any,
    tokens_BT: jax.Array,
    read: Callable[[jax.Array], Any] = lambda logits_BTV: logits_BTV,
) -> Any:
    """Returns `read` of the logits [B, T, V] that the last norm and the head give at each point."""
    seen = interception.run(model, params, tokens_BT)

    def logits_at(x_BTD: jax.Array) -> Any:
        # What the blocks compute here is not used, and XLA removes it.
        edits = {NORM: lambda _: x_BTD}
        return read(interception.run(model, params, tokens_BT, inputs=edits).logits)

    return jax.lax.map(logits_at, jnp.stack(points(seen, blocks(model, params))))


@partial(jax.jit, static_argnames="model")
def nats_of_points(model: nn.Module, params: Any, windows_BT: jax.Array) -> jax.Array:
    """Returns the mean nats of each window at each point, [B, P]."""

    def of_window(tokens_T: jax.Array) -> jax.Array:
        def mean_nats(logits_1TV: jax.Array) -> jax.Array:
            return metrics.next_token_nats(logits_1TV, tokens_T[None, 1:]).mean()

        return lens(model, params, tokens_T[None, :-1], mean_nats)

    return jax.lax.map(of_window, windows_BT)


@partial(jax.jit, static_argnames="model")
def guesses(
    model: nn.Module, params: Any, tokens_T: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the top guess at each point and position of a text, its probability, and that of
    the right token; [P, T - 1] each.
    """

    def read(logits_1TV: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        p_TV = jax.nn.softmax(logits_1TV[0])
        right_T = jnp.take_along_axis(p_TV, tokens_T[1:, None], axis=-1)[:, 0]
        return p_TV.argmax(-1), p_TV.max(-1), right_T

    return lens(model, params, tokens_T[None, :-1], read)


# The logit as a sum.


class Parts(NamedTuple):
    """Terms of a logit, [C, B, T], by `part_names`; and that logit, which they sum to."""

    terms_CBT: jax.Array
    logit_BT: jax.Array


def part_names(model: nn.Module, params: Any) -> list[str]:
    """Returns the names of the terms of `attribution`, in its order."""
    seen = interception.shapes(model, params)
    has_blocks = bool(blocks(model, params))
    names = [name for path, name in EMBEDDINGS.items() if has_blocks and path in seen.outputs]
    for layer, attention in enumerate(interception.attentions(model, params), 1):
        names += [f"head {layer}.{head}" for head in range(1, attention.num_heads + 1)]
        names += [f"MLP {layer}"] * has_blocks
    return [*names, "biases"]


@partial(jax.jit, static_argnames="model")
def attribution(
    model: nn.Module, params: Any, tokens_BT: jax.Array, directions_BTV: jax.Array
) -> Parts:
    """Returns what each part adds to the logits along a direction; one-hot is a token's logit.

    The stream is a sum of parts. The last norm, with its mean and variance as they are, and the
    head are linear: each part goes through them alone.
    """
    seen = interception.run(model, params, tokens_BT)
    has_norm = NORM in seen.outputs
    y_BTD = seen.outputs[NORM] if has_norm else seen.inputs[HEAD]

    def logit_of(y_BTD: jax.Array) -> jax.Array:
        edit = {NORM if has_norm else HEAD: lambda _: y_BTD}
        where = {"outputs" if has_norm else "inputs": edit}
        logits_BTV = interception.run(model, params, tokens_BT, **where).logits
        return (logits_BTV * directions_BTV).sum(-1)

    logit_BT, pull_back = jax.vjp(logit_of, y_BTD)
    (gradient_BTD,) = pull_back(jnp.ones_like(logit_BT))
    biases_BT = logit_of(jnp.zeros_like(y_BTD))
    if has_norm:
        norm = interception.module(model, params, NORM)
        own = params.get(NORM, {})
        if "bias" in own:
            biases_BT += gradient_BTD @ own["bias"]
        gradient_BTD *= own["scale"][None, None] if "scale" in own else 1
        gradient_BTD = through_norm(norm, seen.inputs[NORM], gradient_BTD)
    terms, biases_D = parts(model, params, seen)
    terms_CBT = [(term * gradient_BTD).sum(-1) for term in terms]
    return Parts(jnp.stack([*terms_CBT, biases_BT + gradient_BTD @ biases_D]), logit_BT)


def through_norm(norm: nn.Module, x_BTD: jax.Array, gradient_BTD: jax.Array) -> jax.Array:
    """Returns the gradient before a LayerNorm or RMSNorm at x, its statistics held constant."""

    def centred(x_BTD: jax.Array) -> jax.Array:
        return x_BTD - x_BTD.mean(-1, keepdims=True) if isinstance(norm, nn.LayerNorm) else x_BTD

    variance_BT1 = jnp.square(centred(x_BTD)).mean(-1, keepdims=True)
    assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
    return centred(gradient_BTD) * jax.lax.rsqrt(variance_BT1 + norm.epsilon)


def parts(model: nn.Module, params: Any, seen: Activations) -> tuple[list[jax.Array], jax.Array]:
    """Returns the parts that sum to the stream, [B, T, D] each, and the sum of biases [D].

    The biases are those of attention; an MLP's are in its own part.
    """
    paths = blocks(model, params)
    terms = [seen.outputs[path] for path in EMBEDDINGS if paths and path in seen.outputs]
    biases_D = jnp.zeros(())
    for layer, attention in enumerate(interception.attentions(model, params)):
        heads_BTHK = attention.heads(seen)
        if attention.has_projection:
            out = _at(params, attention.heads_path)
            _, _, H, K = heads_BTHK.shape
            kernel_HKD = out["kernel"].reshape(H, K, -1)
            heads_BTHK = jnp.einsum("BTHK,HKD->BTHD", heads_BTHK, kernel_HKD)
            biases_D += out.get("bias", 0)
        terms += list(jnp.moveaxis(heads_BTHK, 2, 0))
        terms += [seen.outputs[f"{paths[layer]}/mlp"]] if paths else []
    return terms, jnp.broadcast_to(biases_D, terms[0].shape[-1:])


def _at(params: Any, path: str) -> Any:
    """Returns the parameters of the sub-module at a path."""
    for key in path.split("/"):
        params = params[key]
    return params


# Activation patching.


@partial(jax.jit, static_argnames="model")
def patched(
    model: nn.Module,
    params: Any,
    clean_T: jax.Array,
    other_T: jax.Array,
    stream_NPT: jax.Array,
    heads_NLH: jax.Array,
) -> jax.Array:
    """Returns the last logits [N, V] of a text with some activations of a clean one.

    In setting n, where `stream` is 1 the residual stream before a block, or after the last one, is
    that of the clean text; where `heads` is 1, a head's output at every position.
    """
    found = interception.attentions(model, params)
    sites = stream_sites(model, params)
    clean = interception.run(model, params, clean_T[None])

    def last_logits(switches: tuple[jax.Array, jax.Array]) -> jax.Array:
        stream_PT, heads_LH = switches

        def patch(layer: int, y_BTHK: jax.Array) -> jax.Array:
            is_on = heads_LH[layer][None, None, :, None]
            return jnp.where(is_on > 0, found[layer].heads(clean), y_BTHK)

        edits = interception.head_edits(found, patch)
        for is_on_T, (where, path) in zip(stream_PT, sites, strict=True):
            value = getattr(clean, where)[path]
            edits[where] = {**edits[where], path: _patch(is_on_T[None, :, None], value)}
        return interception.run(model, params, other_T[None], **edits).logits[0, -1]

    return jax.lax.map(last_logits, (stream_NPT, heads_NLH))


def _patch(is_on_1T1: jax.Array, value_BTD: jax.Array) -> interception.Edit:
    return lambda x_BTD: jnp.where(is_on_1T1 > 0, value_BTD, x_BTD)


def stream_sites(model: nn.Module, params: Any) -> list[tuple[str, str]]:
    """Returns where the stream is patched: before each block, and before the last norm.

    Without blocks it is the embeddings alone.
    """
    paths = blocks(model, params)
    return [("inputs", path) for path in [*paths, NORM]] if paths else [("outputs", "embed")]


class Pair(NamedTuple):
    """Two texts of equal length that differ in one token, and the token after the first."""

    clean: np.ndarray
    other: np.ndarray
    target: int


def choose_pair(model: nn.Module, params: Any, tokens: np.ndarray, length: int) -> Pair:
    """Returns the held-out text whose next token loses the most probability by one other token.

    That token is MIN_DISTANCE to MAX_DISTANCE places before the target; the one at that place in
    another text replaces it.
    """
    texts = windows.spread(tokens, length)
    distances = np.arange(MIN_DISTANCE, min(MAX_DISTANCE, texts.shape[1] - 1) + 1)
    # All texts as they are, then changed at each distance.
    texts_CBT = np.repeat(texts[None], len(distances) + 1, axis=0)
    for changed, distance in zip(texts_CBT[1:], distances, strict=True):
        changed[:, -1 - distance] = np.roll(texts[:, -1 - distance], 1)
    args = (params, texts_CBT)
    nats_CB = programs.for_model(context.nats_of_last, (model,), args)(*args)
    p_CB = np.exp(-np.asarray(nats_CB))
    place, text = np.unravel_index((p_CB[:1] - p_CB[1:]).argmax(), (len(distances), len(texts)))
    return Pair(texts[text, :-1], texts_CBT[place + 1, text, :-1], int(texts[text, -1]))


# Measurements, as JSON.


def measure(
    model: nn.Module, params: Any, tokens: np.ndarray, context_length: int, shown: np.ndarray
) -> dict | None:
    """Returns the lens, the parts and the patches of a model; None for one without attention.

    "lens" is None without blocks, "parts" where the head is not linear. Lens and parts are of the
    tokens `shown`, too, whose last one is a target alone.
    """
    if not interception.attentions(model, params):
        return None
    args = (model, params, tokens, context_length, shown)
    pair = choose_pair(model, params, tokens, min(context_length, PAIR_LENGTH))
    return {
        "lens": measure_lens(*args) if blocks(model, params) else None,
        "parts": measure_parts(*args),
        "patches": measure_patches(model, params, pair),
    }


def measure_lens(
    model: nn.Module, params: Any, tokens: np.ndarray, context_length: int, shown: np.ndarray
) -> dict:
    """Returns the held-out loss at each point of a stream, and the guesses there on a text."""
    args = (params, windows.spread(tokens, context_length))
    nats_BP = np.asarray(programs.for_model(nats_of_points, (model,), args)(*args))
    args = (params, shown.astype(np.int32))
    top_PT, p_top_PT, p_right_PT = programs.for_model(guesses, (model,), args)(*args)
    return {
        "points": point_names(blocks(model, params)),
        **windows.mean_and_error("loss", nats_BP.T),
        "top": np.asarray(top_PT).tolist(),
        "p_top": np.asarray(p_top_PT, np.float64).round(3).tolist(),
        "p_right": np.asarray(p_right_PT, np.float64).round(3).tolist(),
    }


def measure_parts(
    model: nn.Module, params: Any, tokens: np.ndarray, context_length: int, shown: np.ndarray
) -> dict | None:
    """Returns what each part adds to the right token's logit, on average and on a text.

    A logit is counted from the mean of all logits: softmax ignores what is added to all alike.
    Returns None where the parts do not sum to it: the head is not linear.
    """
    found = []
    for texts in (windows.spread(tokens, context_length), shown[None].astype(np.int32)):
        args = (params, texts)
        terms_BCT, logit_BT = programs.for_model(parts_of_windows, (model,), args)(*args)
        if np.abs(np.asarray(terms_BCT.sum(1) - logit_BT)).max() > TOLERANCE:
            return None
        found.append(np.asarray(terms_BCT, np.float64))
    return {
        "names": part_names(model, params),
        **windows.mean_and_error("mean", found[0].mean(-1).T),
        "terms": found[1][0].round(3).tolist(),
    }


@partial(jax.jit, static_argnames="model")
def parts_of_windows(model: nn.Module, params: Any, windows_BT: jax.Array) -> Any:
    """Returns terms [B, C, T] and logits [B, T] of the next token, above the mean of all logits."""

    def of_window(tokens_T: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = jax.eval_shape(partial(model.apply, {"params": params}), tokens_T[None, :-1])
        V = shape.shape[-1]
        directions_1TV = jax.nn.one_hot(tokens_T[None, 1:], V) - 1 / V
        found = attribution(model, params, tokens_T[None, :-1], directions_1TV)
        return found.terms_CBT[:, 0], found.logit_BT[0]

    return jax.lax.map(of_window, windows_BT)


def measure_patches(model: nn.Module, params: Any, pair: Pair) -> dict:
    """Returns the log-probability of a clean text's next token after each patch of the other text.

    `stream` [P, T] patches one place of the residual stream, `heads` [L, H] one head everywhere.
    """
    P, T = len(stream_sites(model, params)), len(pair.clean)
    found = interception.attentions(model, params)
    L, H = len(found), found[0].num_heads
    stream_NPT = np.zeros((1 + P * T + L * H, P, T), np.float32)
    heads_NLH = np.zeros((len(stream_NPT), L, H), np.float32)
    stream_NPT[1 : 1 + P * T] = np.eye(P * T).reshape(-1, P, T)
    heads_NLH[1 + P * T :] = np.eye(L * H).reshape(-1, L, H)
    # One more that patches everything: the clean text's own.
    stream_NPT = np.concatenate([stream_NPT, np.ones((1, P, T), np.float32)])
    heads_NLH = np.concatenate([heads_NLH, np.zeros((1, L, H), np.float32)])
    args = (params, pair.clean, pair.other, stream_NPT, heads_NLH)
    logits_NV = np.asarray(programs.for_model(patched, (model,), args)(*args), np.float64)
    logs_N = logits_NV[:, pair.target] - np.logaddexp.reduce(logits_NV, axis=-1)
    return {
        "clean_tokens": pair.clean.tolist(),
        "other_tokens": pair.other.tolist(),
        "target": pair.target,
        "points": ["embeddings", *(f"block {i}" for i in range(1, P))],
        "other": logs_N[0],
        "clean": logs_N[-1],
        "stream": logs_N[1 : 1 + P * T].reshape(P, T).round(4).tolist(),
        "heads": logs_N[1 + P * T : -1].reshape(L, H).round(4).tolist(),
    }
