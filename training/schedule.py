"""Learning rates: a linear warm-up, a stretch at the peak, and a decay in a line or along a cosine.

A schedule's numbers are arguments of the compiled step, not constants in it: another learning rate,
shape or number of steps compiles nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

# The keys that become a schedule's numbers, and so are no part of an optimizer.
KEYS = (
    *("learning_rate", "final_learning_rate", "adam_learning_rate"),
    *("schedule", "warmup_steps", "decay_share"),
)


class Schedule(NamedTuple):
    """The learning rate as a function of the number of updates made; 0 without numbers."""

    is_cosine: np.bool_ | jax.Array = np.bool_(False)
    peak: np.float32 | jax.Array = np.float32(0)
    final: np.float32 | jax.Array = np.float32(0)  # After the decay.
    warmup_steps: np.int32 | jax.Array = np.int32(0)  # From 0 to the peak.
    decay_begin: np.int32 | jax.Array = np.int32(0)
    decay_steps: np.int32 | jax.Array = np.int32(0)
    adam_ratio: np.float32 | jax.Array = np.float32(1)  # Of Adam's rate beside Muon's.

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Returns the learning rate after `step` updates."""
        rise = step / jnp.maximum(self.warmup_steps, 1)
        share = jnp.clip((step - self.decay_begin) / jnp.maximum(self.decay_steps, 1), 0.0, 1.0)
        left = jnp.where(self.is_cosine, (1 + jnp.cos(jnp.pi * share)) / 2, 1 - share)
        decayed = self.final + (self.peak - self.final) * left
        return jnp.where(step < self.warmup_steps, self.peak * rise, decayed)

    def adam(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Returns the learning rate of the parameters that Adam updates beside Muon."""
        return self.adam_ratio * self(step)


def build(config: ConfigDict, num_steps: int) -> Schedule:
    """Returns the schedule of a run of `num_steps`; `config` is a whole config's `optimizer`.

    Its `schedule` is cosine, linear or wsd (Hu et al., 2024): the peak for most of the run, then a
    line.
    """
    # A run shorter than its warm-up still rises and falls: the peak is in its middle at the latest.
    warmup_steps = min(config.warmup_steps, num_steps // 2)
    decay_steps = num_steps - warmup_steps
    if config.schedule == "wsd":
        decay_steps = max(1, round(config.decay_share * decay_steps))
    return Schedule(
        is_cosine=np.bool_(config.schedule == "cosine"),
        peak=np.float32(config.learning_rate),
        final=np.float32(config.final_learning_rate),
        warmup_steps=np.int32(warmup_steps),
        decay_begin=np.int32(num_steps - decay_steps),
        decay_steps=np.int32(decay_steps),
        adam_ratio=np.float32(config.adam_learning_rate / (config.learning_rate or 1) or 1),
    )
