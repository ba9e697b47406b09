"""What is measured: nats per token, and the three figures that are made from them.

A metric at step n was measured after n updates. The one exception is everything under `train/`:
it belongs to update n itself, so its loss is that of the batch before the update. It is one
batch's raw value; smoothing is the plot's business.
"""

import math

import jax
import optax


def next_token_nats(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """How surprised the model was by each target: -log p, in nats, [B, T]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT)


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
