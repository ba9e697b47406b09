"""Attention with weights set by hand, whose answer is known: tokens and positions are one-hot."""

import jax
import jax.numpy as jnp
import numpy as np

import models

V, T = 40, 32
SHARP = 400.0  # A score so far above the others that softmax picks it.


def one_layer(**kernels: np.ndarray):
    """A stage-2 model whose attention has these kernels; the others are 0, its logits zero."""
    D = V + T
    model = models.SelfAttentionModel(V, T, embed_dim=D)
    params = zeros(model)
    params["embed"]["token"]["embedding"] = jnp.eye(V, D)
    params["embed"]["position"]["embedding"] = jnp.eye(T, D, k=V)
    for name, kernel in kernels.items():
        params["attention"][name]["kernel"] = jnp.asarray(kernel, jnp.float32)
    return model, params


def previous_token(distance: int = 1):
    """A head that attends to the token before the query, or to one further back."""
    D = V + T
    query = np.zeros((D, D))
    query[V:, V:] = SHARP * np.eye(T, k=-distance)
    return one_layer(query=query, key=np.eye(D))


def copies(model, params):
    """Those with the token that the head attends to as the next one, 5 nats ahead of others."""
    params["attention"]["value"]["kernel"] = jnp.eye(V + T)
    params["logits"]["kernel"] = 5 * jnp.eye(V + T, V)
    return model, params


def same_token():
    """A head that attends to earlier occurrences of the query's token, and not to the query."""
    query = SHARP * np.diag([1.0] * V + [-2.0] * T)
    return one_layer(query=query, key=np.eye(V + T))


def induction():
    """Two blocks: a head copies the token before; the next finds where it is the query's token."""
    D = 2 * V + T  # The token, the position, and the copy of the token before.
    token, position, copy = slice(0, V), slice(V, V + T), slice(V + T, D)
    model = models.TransformerDecoder(V, T, embed_dim=D, num_heads=1, num_layers=2)
    params = zeros(model)
    params["embed"]["token"]["embedding"] = jnp.eye(V, D)
    params["embed"]["position"]["embedding"] = jnp.eye(T, D, k=V)
    kernels = {
        name: {part: np.zeros((D, D)) for part in ("query", "key", "value", "out")}
        for name in ("block_0", "block_1")
    }
    kernels["block_0"]["query"][position, position] = SHARP * np.eye(T, k=-1)
    kernels["block_0"]["key"][position, position] = np.eye(T)
    kernels["block_0"]["value"][token, copy] = np.eye(V)
    kernels["block_0"]["out"] = np.eye(D)
    kernels["block_1"]["query"][token, token] = SHARP * np.eye(V)
    kernels["block_1"]["key"][copy, token] = np.eye(V)
    for block, parts in kernels.items():
        for norm in ("attention_norm", "mlp_norm"):
            params[block][norm]["scale"] = jnp.ones(D)
        for part, kernel in parts.items():
            params[block]["attention"][part]["kernel"] = jnp.asarray(kernel, jnp.float32)
    return model, params


def without_first_head(params):
    """Those parameters with nothing written by the first block's attention."""
    out = {"kernel": jnp.zeros_like(params["block_0"]["attention"]["out"]["kernel"])}
    attention = {**params["block_0"]["attention"], "out": out}
    return {**params, "block_0": {**params["block_0"], "attention": attention}}


def zeros(model):
    """Parameters of a model, all 0."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
