"""Exact evaluation of a model on a whole split.

Every token after the first is a target once, in consecutive windows of the context length; of pairs
every token of the answers, after its whole pair up to there. nanoGPT and the lecture estimate the
loss from 200 random batches instead.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from inference import metrics
from input_pipeline import batches
from models import sharding
from runtime import devices, programs

BATCHES_PER_CHUNK = 64  # Bounds the memory that a large split needs.


@partial(jax.jit, static_argnames="model")
def nats_of_batches(
    model: nn.Module, params: Any, windows_CBT: jax.Array, mask_CBT: jax.Array
) -> jax.Array:
    """Returns the sum of nats over the targets in `mask`, for each of C batches.

    A window holds T + 1 tokens: the inputs, and shifted by one the targets.
    """

    def nats_of_batch(batch):
        windows_BT, mask_BT = batch
        logits_BTV = model.apply({"params": params}, windows_BT[:, :-1])
        assert isinstance(logits_BTV, jax.Array)  # Flax would return a tuple for `mutable`.
        nats_BT = metrics.next_token_nats(logits_BTV, windows_BT[:, 1:])
        return jnp.sum(nats_BT, where=mask_BT)

    return sharding.whole(jax.lax.map(nats_of_batch, (windows_CBT, mask_CBT)))


def evaluate(
    model: nn.Module,
    params: Any,
    tokens: batches.Split,
    token_bytes: np.ndarray,
    *,
    batch_size: int,
    context_length: int,
    mesh: Mesh,
) -> dict[str, float]:
    """Returns `metrics.score` over all of `tokens`; `token_bytes` [V] are UTF-8 lengths."""
    nats, num_tokens, num_bytes = 0.0, 0, 0
    for windows_CBT, mask_CBT in batches.eval_windows(
        tokens,
        batch_size=batch_size,
        context_length=context_length,
        batches_per_chunk=BATCHES_PER_CHUNK,
    ):
        chunk = (devices.split_batches(array, mesh) for array in (windows_CBT, mask_CBT))
        args = (params, *chunk)
        with sharding.over(mesh):
            nats_C = programs.for_model(nats_of_batches, (model,), args)(*args)
        # In float64: a float32 total over a long split would lose its last digits.
        nats += np.asarray(nats_C, np.float64).sum()
        targets = windows_CBT[..., 1:][mask_CBT]
        num_tokens += len(targets)
        num_bytes += int(token_bytes[targets].sum())
    return metrics.score(float(nats), num_tokens, num_bytes)
