"""How gradients become updates: AdamW behind a gradient clip, with warm-up and cosine decay."""

import jax
import optax
from ml_collections import ConfigDict

from errors import UserError


def build(
    config: ConfigDict, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transformation for a TrainState's `tx`, and its learning rate as a function of step.

    `config` is a whole config's `optimizer`. Raises UserError for an unknown name.
    """
    if config.name != "adamw":
        raise UserError(f"config.optimizer.name={config.name!r}: the only one is 'adamw'")
    # A run shorter than its warm-up still rises and falls: the peak is in its middle at the latest.
    warmup_steps = min(config.warmup_steps, num_steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=num_steps,
        end_value=config.final_learning_rate,
    )
    adamw = optax.adamw(
        schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask
    )
    if not config.grad_clip_norm:
        return adamw, schedule
    return optax.chain(optax.clip_by_global_norm(config.grad_clip_norm), adamw), schedule


def decay_mask(params: dict) -> dict:
    """True for what weight decay shrinks: the kernels, not biases, norms or embeddings."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
