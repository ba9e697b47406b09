"""Heads of attention: their weights on a text, what kind of keys they attend to, and what they buy.

Mass is the mean sum of a head's weights on some keys, over the queries that have such keys; by
chance it is that of uniform weights, 1 / (t + 1).
"""

import base64
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from inference import metrics
from inspection import interception, windows
from runtime import programs

# Tokens of the text whose weights are shown.
MAX_SHOWN = 64
MASSES = ("previous", "same", "induction")
# Operations of switching off each head in turn: a minute or two on two cores.
MAX_FLOPS = 1e13


class Scores(NamedTuple):
    """Sums over windows: of what each head does, and of what uniform weights would do."""

    spectrum_LHD: jax.Array  # Mean weight at each distance, over the queries of the second half.
    entropy_LH: jax.Array  # Mean over queries, in nats.
    masses_MLH: jax.Array  # Sums over queries.
    uniform_M: jax.Array
    queries_M: jax.Array  # Number of queries that have such keys.


def all_weights(model: nn.Module, params: Any, tokens_T: jax.Array) -> jax.Array:
    """Returns the weights of all heads on one text, [L, H, T, S]."""
    seen = interception.run(model, params, tokens_T[None])
    found = interception.attentions(model, params)
    T = len(tokens_T)
    return jnp.stack([seen.outputs[one.weights].reshape(-1, T, T) for one in found])


def keys_of_interest(tokens_T: jax.Array, repeated_T: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of each of the first two MASSES in a text, and those of induction [T, S].

    Induction is measured on a repeated text, in whose second half it finds the token that came
    after the current one before (Olsson et al., 2022).
    """
    distance_TS = jnp.arange(len(tokens_T))[:, None] - jnp.arange(len(tokens_T))[None]
    is_same_TS = (tokens_T[:, None] == tokens_T[None]) & (distance_TS > 0)
    of_text = jnp.stack([distance_TS == 1, is_same_TS])
    before_S = jnp.roll(repeated_T, 1)
    is_next_TS = (repeated_T[:, None] == before_S[None]) & (distance_TS >= 0)
    is_next_TS = is_next_TS.at[:, 0].set(False).at[: len(repeated_T) // 2].set(False)
    return of_text, is_next_TS[None]


def mass(weights_LHTS: jax.Array, is_key_MTS: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns weights on such keys summed [M, L, H], the same of uniform weights, and queries."""
    keys_MTS = is_key_MTS.astype(jnp.float32)
    uniform_1T1 = 1 / jnp.arange(1, keys_MTS.shape[1] + 1)[None, :, None]
    queries_M = is_key_MTS.any(-1).sum(-1)
    masses_MLH = jnp.einsum("LHTS,MTS->MLH", weights_LHTS, keys_MTS)
    return masses_MLH, (keys_MTS * uniform_1T1).sum((1, 2)), queries_M


def scores(weights_LHTS: jax.Array, repeated_LHTS: jax.Array, *texts: jax.Array) -> Scores:
    """Returns the scores of weights on a text and on a repeated one; `texts` are both."""
    T = weights_LHTS.shape[-1]
    query_T1, distance_1D = jnp.arange(T // 2, T)[:, None], jnp.arange(T // 2 + 1)[None]
    spectrum_LHTD = weights_LHTS[:, :, query_T1, query_T1 - distance_1D]
    logs = jnp.log(jnp.maximum(weights_LHTS, jnp.finfo(jnp.float32).tiny))
    of_text, of_repeated = keys_of_interest(*texts)
    found = mass(weights_LHTS, of_text), mass(repeated_LHTS, of_repeated)
    masses = (jnp.concatenate(pair) for pair in zip(*found, strict=True))
    entropy_LHT = -(weights_LHTS * logs).sum(-1)
    return Scores(spectrum_LHTD.mean(2), entropy_LHT.mean(-1), *masses)


@partial(jax.jit, static_argnames="model")
def scores_of_windows(
    model: nn.Module, params: Any, windows_BT: jax.Array, repeated_BT: jax.Array
) -> Scores:
    """Returns the sums of `scores` over windows, one at a time: weights take the most memory."""

    def of_window(texts: tuple[jax.Array, jax.Array]) -> Scores:
        weights = (all_weights(model, params, tokens_T) for tokens_T in texts)
        return scores(*weights, *texts)

    of_each = jax.lax.map(of_window, (windows_BT, repeated_BT))
    return jax.tree.map(lambda leaf: leaf.sum(0), of_each)


@partial(jax.jit, static_argnames="model")
def nats_without(
    model: nn.Module, params: Any, windows_BT: jax.Array, switches_NLH: jax.Array
) -> jax.Array:
    """Returns the mean nats of each window [N, B] for each setting of the switches.

    The switches are an argument: one program serves all ablations.
    """
    return nats_of_settings(model, params, windows_BT, switches_NLH).mean(-1)


def nats_of_settings(
    model: nn.Module, params: Any, windows_BT: jax.Array, switches_NLH: jax.Array
) -> jax.Array:
    """Returns the nats of each target [N, B, T] for each setting of the switches.

    At switch 0 a head's output is replaced by its mean over these windows.
    """
    inputs_BT, targets_BT = windows_BT[:, :-1], windows_BT[:, 1:]
    found = interception.attentions(model, params)
    seen = interception.run(model, params, inputs_BT)
    means = [one.heads(seen).mean((0, 1), keepdims=True) for one in found]

    def of_setting(switches_LH: jax.Array) -> jax.Array:
        def switch(layer: int, y_BTHK: jax.Array) -> jax.Array:
            return means[layer] + switches_LH[layer][None, None, :, None] * (y_BTHK - means[layer])

        edits = interception.head_edits(found, switch)
        logits_BTV = interception.run(model, params, inputs_BT, **edits).logits
        return metrics.next_token_nats(logits_BTV, targets_BT)

    return jax.lax.map(of_setting, switches_NLH)


def measure(model: nn.Module, params: Any, tokens: np.ndarray, context_length: int) -> dict | None:
    """Returns the scores of each head on a held-out text, and by how much it lowers the loss.

    The rise is None for a model that is too large to measure it, everything for one without
    attention.
    """
    measured = measure_scores(model, params, tokens, context_length)
    if measured is None:
        return None
    rows = measured["heads"]
    texts = affordable(windows.spread(tokens, context_length), params, len(rows))
    unknown: list[float | None] = [None] * len(rows)
    cost = {"cost": unknown, "cost_error": unknown}
    if len(texts):
        cost = ablations(model, params, texts, (rows[-1]["layer"], rows[-1]["head"]))
    for place, row in enumerate(rows):
        row.update({name: values[place] for name, values in cost.items()})
    return measured


def affordable(texts: np.ndarray, params: Any, num_heads: int) -> np.ndarray:
    """Returns as many windows, spread evenly, as can be scored without each head in MAX_FLOPS.

    None of several where that would not be two, without which there is no standard error.
    """
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    each = 2 * num_params * (texts.shape[1] - 1) * (num_heads + 1)
    most = min(len(texts), int(MAX_FLOPS / each))
    if most < min(2, len(texts)):
        return texts[:0]
    return texts[np.linspace(0, len(texts) - 1, most).astype(int)]


def measure_scores(
    model: nn.Module, params: Any, tokens: np.ndarray, context_length: int
) -> dict | None:
    """Returns what each head attends to in a held-out text; None for a model without attention."""
    found = interception.attentions(model, params)
    if not found:
        return None
    texts = windows.spread(tokens, context_length)
    num, T = texts[:, 1:].shape
    args = (params, texts[:, :-1], repeated(tokens, (num, T)))
    summed = programs.for_model(scores_of_windows, (model,), args)(*args)
    totals = jax.tree.map(partial(np.asarray, dtype=np.float64), summed)
    masses_MLH = totals.masses_MLH / totals.queries_M[:, None, None]
    chances_M = totals.uniform_M / totals.queries_M
    rows = [
        {
            "layer": layer + 1,
            "head": head + 1,
            **dict(zip(MASSES, masses_MLH[:, layer, head].tolist(), strict=True)),
            "entropy": float(totals.entropy_LH[layer, head] / num),
            "spectrum": (totals.spectrum_LHD[layer, head] / num).round(4).tolist(),
        }
        for layer, head in np.ndindex(len(found), found[0].num_heads)
    ]
    return {
        "num_windows": num,
        "length": T,
        "chance": dict(zip(MASSES, chances_M.tolist(), strict=True)),
        "uniform_entropy": float(np.log(np.arange(1, T + 1)).mean()),
        "heads": rows,
    }


def repeated(tokens: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns texts of tokens drawn uniformly from those of a text, each followed by itself."""
    num, length = shape
    half = -(-length // 2)
    drawn = np.random.default_rng(0).choice(np.unique(tokens), (num, half))
    return np.tile(drawn, 2)[:, :length].astype(np.int32)


def ablations(
    model: nn.Module, params: Any, texts: np.ndarray, shape: tuple[int, int]
) -> dict[str, list[float | None]]:
    """Returns by how much the loss rises without each head, and the paired standard error."""
    num = shape[0] * shape[1]
    # The first setting has all heads, each other one all but one.
    switches = 1 - np.eye(num + 1, dtype=np.float32)[:, 1:]
    args = (params, texts, switches.reshape(-1, *shape))
    nats = np.asarray(programs.for_model(nats_without, (model,), args)(*args), np.float64)
    return windows.mean_and_error("cost", nats[1:] - nats[:1])


@partial(jax.jit, static_argnames="model")
def weights_of_text(model: nn.Module, params: Any, tokens_T: jax.Array) -> jax.Array:
    """Returns `all_weights`, compiled."""
    return all_weights(model, params, tokens_T)


def shown_weights(model: nn.Module, params: Any, tokens: np.ndarray) -> list[list[str]]:
    """Returns each head's weights on a text in 1/255, by layer and head.

    One byte a weight, row after row without what the mask hides, in base64.
    """
    args = (params, tokens.astype(np.int32))
    weights_LHTS = np.asarray(programs.for_model(weights_of_text, (model,), args)(*args))
    is_past = np.tril(np.ones(weights_LHTS.shape[-2:], bool))
    parts = np.round(255 * weights_LHTS[..., is_past]).astype(np.uint8)
    return [[base64.b64encode(head.tobytes()).decode() for head in layer] for layer in parts]
