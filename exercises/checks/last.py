"""Check of the last exercise: logits of a whole decoder, and the first part that differs.

Parts are switched off by zeros in the parameters, last to first: what the answer gets wrong first
shows with all later parts silent.
"""

import copy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from exercises.compare import array, first_difference
from exercises.learner import Answer, Wrong
from models.transformer_decoder import TransformerDecoder

V, CONTEXT, D, H, L = 11, 9, 12, 3, 2
TOLERANCE = 1e-4
Params = dict[str, Any]


def random_params(model: TransformerDecoder) -> Params:
    """Returns random parameters, none of them 0 or 1, as nested dicts of NumPy arrays."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return (0.5 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)


def silenced(params: Params, *paths: str) -> Params:
    """Returns the parameters with zeros at some paths, `*` for all blocks."""
    changed = copy.deepcopy(params)
    for path in paths:
        first, *rest = path.split("/")
        names = [name for name in changed if name == first or (first == "*" and "block" in name)]
        for name in names:
            node = changed[name]
            for key in rest[:-1]:
                node = node[key]
            last = rest[-1]
            node[last] = jax.tree.map(np.zeros_like, node[last])
    return changed


def parts(params: Params) -> Iterator[tuple[str, Params]]:
    """Yields each part, in the order of the forward pass, with parameters that show it first.

    The logits and the last norm come before the embedding, for they make all else visible.
    """
    attention, mlp = "*/attention/out", "*/mlp/down"
    quiet = silenced(params, attention, mlp)
    yield "logits (final_norm gives its bias alone)", silenced(quiet, "final_norm/scale")
    no_position = silenced(quiet, "embed/position")
    no_position["final_norm"]["bias"] *= 0
    yield "embedding of the tokens, or final_norm", no_position
    yield "embedding of the positions", quiet
    so_far = quiet
    for layer in range(L):
        name = f"block_{layer}"
        for sublayer, out in (("attention", "out"), ("mlp", "down")):
            so_far = copy.deepcopy(so_far)
            so_far[name][sublayer][out] = params[name][sublayer][out]
            yield f"block {layer}'s {sublayer} ({name}/{sublayer} and its norm)", so_far


def decoder_logits(answer: Answer, setting: object) -> str:
    """Compares the answer with stage 4's model, part by part."""
    model = TransformerDecoder(V, CONTEXT, D, H, L)
    params = random_params(model)
    forward = jax.jit(model.apply)
    tokens_BT = np.random.default_rng(1).integers(0, V, (2, 7))
    largest = 0.0
    for part, shown in parts(params):
        expected = np.asarray(forward({"params": shown}, tokens_BT))
        given = answer.call("decoder_logits", copy.deepcopy(shown), tokens_BT, H)
        found = array(given, "decoder_logits")
        if found.shape != expected.shape:
            raise Wrong(
                f"decoder_logits returned shape {found.shape}: expected [B, T, V] = "
                f"{expected.shape}"
            )
        difference = np.abs(found - expected).max()
        if not difference <= TOLERANCE * max(1, np.abs(expected).max()):
            b, t, v = first_difference(found, expected, TOLERANCE)
            raise Wrong(
                f"the values first differ in the {part}: logits at b={b}, t={t}, v={v}: expected "
                f"{expected[b, t, v]:.5f}, found {found[b, t, v]:.5f}"
            )
        largest = max(largest, float(difference))
    return f"all logits within {largest:.0e}"
