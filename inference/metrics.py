"""What is measured: nats per token, and the three figures that are made from them.

A metric at step n was measured after n updates. The one exception is everything under `train/`:
it belongs to update n itself, so its loss is that of the batch before the update. It is one
batch's raw value; smoothing is the plot's business.
"""

import math

import jax
import jax.numpy as jnp
import optax

from models.layers import reference


def next_token_nats(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """How surprised the model was by each target: -log p, in nats, [B, T]."""
    if reference.is_forced():
        return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT)
    return _next_token_nats(logits_BTV, targets_BT)


@jax.custom_vjp
def _next_token_nats(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    return _nats(logits_BTV, targets_BT)[0]


def _nats(logits_BTV: jax.Array, targets_BT: jax.Array):
    greatest_BT1 = jnp.max(logits_BTV, axis=-1, keepdims=True)
    exps_BTV = jnp.exp(logits_BTV - greatest_BT1)
    sums_BT1 = jnp.sum(exps_BTV, axis=-1, keepdims=True)
    of_target_BT1 = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)
    nats_BT1 = jnp.log(sums_BT1) + greatest_BT1 - of_target_BT1
    return nats_BT1[..., 0], (exps_BTV, sums_BT1, targets_BT)


def _gradient_of_nats(kept, dnats_BT: jax.Array):
    """p minus 1 at the target: one pass over the logits, where autodiff would scatter the ones."""
    exps_BTV, sums_BT1, targets_BT = kept
    vocab_BTV = jax.lax.broadcasted_iota(jnp.int32, exps_BTV.shape, exps_BTV.ndim - 1)
    is_target_BTV = vocab_BTV == targets_BT[..., None]
    dnats_BT1 = dnats_BT[..., None]
    return exps_BTV * (dnats_BT1 / sums_BT1) - jnp.where(is_target_BTV, dnats_BT1, 0), None


_next_token_nats.defvjp(_nats, _gradient_of_nats)


def score(nats: float, num_tokens: int, num_bytes: int) -> dict[str, float]:
    """Loss (nats per token), perplexity, and bits per byte of text, from totals.

    Bits per byte divides once, total bits by total bytes, so it can be compared across
    tokenizers; a mean of ratios could not.
    """
    loss = nats / num_tokens
    return {
        "loss": loss,
        # A diverged model's perplexity is out of range for a float, not an error.
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "bits_per_byte": nats / math.log(2) / num_bytes,
    }
