"""Cross-entropy in nats per token, and the metrics from it: loss, perplexity and bits per byte.

A metric at step n is measured after n updates, except for those under `train/`, which belong to
update n itself: `train/loss` is the loss of its batch before the update, and is not smoothed.
"""

import math

import jax
import jax.numpy as jnp
import optax

from models.layers import reference


def next_token_nats(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Returns the cross-entropy -log p of each target, in nats, [B, T]."""
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


def _gradient_of_nats(residuals, dnats_BT: jax.Array):
    """Returns p minus one-hot targets in one pass over the logits; autodiff would scatter."""
    exps_BTV, sums_BT1, targets_BT = residuals
    vocab_BTV = jax.lax.broadcasted_iota(jnp.int32, exps_BTV.shape, exps_BTV.ndim - 1)
    is_target_BTV = vocab_BTV == targets_BT[..., None]
    dnats_BT1 = dnats_BT[..., None]
    return exps_BTV * (dnats_BT1 / sums_BT1) - jnp.where(is_target_BTV, dnats_BT1, 0), None


_next_token_nats.defvjp(_nats, _gradient_of_nats)


def score(nats: float, num_tokens: int, num_bytes: int) -> dict[str, float]:
    """Returns loss (nats per token), perplexity, and bits per byte of text, from totals.

    Bits per byte is total bits over total bytes, which is comparable across tokenizers; a mean of
    ratios is not.
    """
    loss = nats / num_tokens
    return {
        "loss": loss,
        # exp overflows a float from 710 on: infinite, not an error, for a diverged model.
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "bits_per_byte": nats / math.log(2) / num_bytes,
    }
