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

from inference import metrics, rows
from input_pipeline import batches
from models import sharding

BATCHES_PER_CHUNK = 64  # Bounds the memory that a large split needs.


@partial(jax.jit, static_argnames="model")
def nats_of_batches(
    model: nn.Module, params: Any, windows_CBT: jax.Array, mask_CBT: jax.Array
) -> jax.Array:
    """Returns the nats over the targets in `mask` of each row, [C, B].

    A window holds T + 1 tokens: the inputs, and shifted by one the targets.
    """

    def nats_of_batch(batch):
        windows_BT, mask_BT = batch
        logits_BTV = model.apply({"params": params}, windows_BT[:, :-1])
        assert isinstance(logits_BTV, jax.Array)  # Flax would return a tuple for `mutable`.
        nats_BT = metrics.next_token_nats(logits_BTV, windows_BT[:, 1:])
        return jnp.sum(nats_BT, axis=1, where=mask_BT)

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
    of_rows = rows.over(nats_of_batches, model, params, mesh)
    for windows_CBT, mask_CBT in batches.eval_windows(
        tokens,
        batch_size=batch_size,
        context_length=context_length,
        batches_per_chunk=BATCHES_PER_CHUNK,
    ):
        nats_CB = of_rows(windows_CBT, mask_CBT)
        # In float64: a float32 total over a long split would lose its last digits.
        nats += np.asarray(nats_CB, np.float64).sum()
        targets = windows_CBT[..., 1:][mask_CBT]
        num_tokens += len(targets)
        num_bytes += int(token_bytes[targets].sum())
    return metrics.score(float(nats), num_tokens, num_bytes)
