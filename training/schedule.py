"""Learning-rate schedules: linear warm-up, then a cosine, linear or stable-then-linear decay."""

import optax
from ml_collections import ConfigDict


def build(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step, for a whole config's `optimizer`."""
    # A run shorter than its warm-up still rises and falls: the peak is in its middle at the latest.
    warmup_steps = min(config.warmup_steps, num_steps // 2)
    warmup = optax.linear_schedule(0.0, config.learning_rate, warmup_steps)
    decay = SCHEDULES[config.schedule](config, num_steps - warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps]) if warmup_steps else decay


def _cosine(config: ConfigDict, num_steps: int) -> optax.Schedule:
    peak, final = config.learning_rate, config.final_learning_rate
    return optax.cosine_decay_schedule(peak, num_steps, alpha=final / peak if peak else 0.0)


def _linear(config: ConfigDict, num_steps: int) -> optax.Schedule:
    return optax.linear_schedule(config.learning_rate, config.final_learning_rate, num_steps)


def _stable_then_decay(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """WSD (Hu et al., 2024): the peak for most of the run, then a linear decay."""
    # config/check.py refuses other shares; this builds whatever is still to be checked.
    share = config.decay_share if 0 < config.decay_share <= 1 else 1.0
    decay_steps = max(1, round(share * num_steps))
    return optax.linear_schedule(
        config.learning_rate,
        config.final_learning_rate,
        decay_steps,
        transition_begin=num_steps - decay_steps,
    )


SCHEDULES = {"cosine": _cosine, "linear": _linear, "wsd": _stable_then_decay}
