"""Norms of each layer's gradient and parameters, computed inside the training step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from run_folder import NORMS

# Names of a path that make a layer: block_0/attention has the kernels and biases below it. A GPT-2
# with 12 blocks has 51 layers.
DEPTH = 2
TREES = "grad", "param"


def by_layer(tree: Any) -> dict[str, list[Any]]:
    """Returns the leaves of a parameter tree by the name of their layer."""
    layers: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [entry.key for entry in path]
        layers.setdefault("/".join(names[:-1][:DEPTH] or names), []).append(leaf)
    return layers


def measure(gradient: Any, params: Any) -> jax.Array:
    """Returns the norms of both trees, [2, layers]."""
    trees = gradient, params
    return jnp.stack(
        [
            jnp.stack([optax.tree.norm(leaves) for leaves in by_layer(tree).values()])
            for tree in trees
        ]
    )


def initial(params: Any) -> np.ndarray:
    """Returns the norms before the first step: zeros."""
    return np.zeros((len(TREES), len(by_layer(params))), np.float32)


def named(norms: Any, params: Any) -> dict[str, float]:
    """Returns what `measure` did as metrics: norms/grad/block_0/attention and so on."""
    return {
        f"{NORMS}{tree}/{layer}": float(norm)
        for tree, row in zip(TREES, norms, strict=True)
        for layer, norm in zip(by_layer(params), row, strict=True)
    }
