"""Check of the last exercise: logits of a whole decoder, and the first part that differs.

Parts are added one at a time, in models without later blocks and with zeros in the parameters of
later parts: the first difference is in the part that was added last.
"""

import copy
from collections.abc import Callable, Iterator
from functools import cache
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
    """Returns a copy of the parameters with zeros at some paths."""
    changed = copy.deepcopy(params)
    for path in paths:
        *parents, last = path.split("/")
        node = changed
        for key in parents:
            node = node[key]
        node[last] = jax.tree.map(np.zeros_like, node[last])
    return changed


def parts(params: Params) -> Iterator[tuple[str, Params]]:
    """Yields each part with parameters that show it, and no part after it.

    Without blocks the logits, the last norm and the embedding show; all else needs them.
    """
    shown = {name: layer for name, layer in params.items() if not name.startswith("block_")}
    yield "logits, or scale and bias of final_norm", silenced(shown, "final_norm/scale")
    yield (
        "embedding of the tokens, or mean and variance of final_norm",
        silenced(shown, "embed/position"),
    )
    yield "embedding of the positions", shown
    for layer in range(L):
        name, out, down = f"block_{layer}", "attention/out", "mlp/down"
        shown = {**shown, name: silenced(params[name], out, down)}
        yield f"sums of block {layer}, x + attention and x + mlp, or its place in the tree", shown
        shown = {**shown, name: silenced(params[name], down)}
        yield f"attention of block {layer}, or its attention_norm", shown
        shown = {**shown, name: params[name]}
        yield f"MLP of block {layer}, or its mlp_norm", shown


@cache
def examples() -> list[tuple[str, Params, np.ndarray, np.ndarray]]:
    """Returns each part with the parameters that show it, tokens, and the logits of stage 4."""
    params = random_params(TransformerDecoder(V, CONTEXT, D, H, L))
    tokens_BT = np.random.default_rng(1).integers(0, V, (2, 7))
    found = []
    for part, shown in parts(params):
        num_layers = sum(name.startswith("block_") for name in shown)
        forward = _forward(TransformerDecoder(V, CONTEXT, D, H, num_layers))
        found.append((part, shown, tokens_BT, np.asarray(forward({"params": shown}, tokens_BT))))
    return found


@cache
def _forward(model: TransformerDecoder) -> Callable[..., jax.Array]:
    return jax.jit(model.apply)


def decoder_logits(answer: Answer, setting: object) -> str:
    """Compares the answer with stage 4's model, part by part."""
    largest = 0.0
    for part, shown, tokens_BT, expected in examples():
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
