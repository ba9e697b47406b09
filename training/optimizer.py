"""How gradients become updates: a clip, an optimizer of optax, and a learning rate that comes and
goes.

Matrices inside the model are what optimizers differ on: muon is for them alone, and `hidden_mask`
says which they are. Weight decay shrinks those and a head's own matrix: `decay_mask`.
"""

from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from runtime.errors import UserError
from training import muon

# Those whose update has one size whatever the gradient's: muP divides it by the width_multiplier.
SIGN_LIKE = ("adamw", "lion")


def build(
    config: ConfigDict, num_steps: int, width_multiplier: float = 1.0
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transformation for a TrainState's `tx`, and its learning rate as a function of step.

    `config` is a whole config's `optimizer`. `width_multiplier` is the model's width over that of
    the model that the learning rate was found for; hidden matrices then take steps, and decay, by
    as much less, but for muon, whose steps suit any width.

    Raises UserError for an unknown name, and for another width where this optimizer has no rule.
    """
    found = []
    if config.name not in OPTIMIZERS:
        names = ", ".join(OPTIMIZERS)
        found.append(f"config.optimizer.name={config.name!r}: expected one of {names}")
    elif width_multiplier != 1 and config.name not in (*SIGN_LIKE, "muon"):
        found.append(
            f"config.optimizer.name={config.name!r} has no rule for config.model.mup_base_dim: "
            f"expected one of {', '.join(SIGN_LIKE)}, muon"
        )
    if config.schedule not in SCHEDULES:
        names = ", ".join(SCHEDULES)
        found.append(f"config.optimizer.schedule={config.schedule!r}: expected one of {names}")
    if found:
        raise UserError("; ".join(found))
    schedule = _warmed_up(config, num_steps)
    parts = [OPTIMIZERS[config.name](config, schedule)]
    if config.grad_clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.grad_clip_norm))
    if width_multiplier != 1 and config.name in SIGN_LIKE:
        parts.append(optax.masked(optax.scale(1 / width_multiplier), hidden_mask))
    return (optax.chain(*parts) if parts[1:] else parts[0]), schedule


def _warmed_up(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """A line from 0 to the peak, then what `config.schedule` says for the steps that are left."""
    # A run shorter than its warm-up still rises and falls: the peak is in its middle at the latest.
    warmup_steps = min(config.warmup_steps, num_steps // 2)
    peak, final, rest = config.learning_rate, config.final_learning_rate, num_steps - warmup_steps
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    fall = SCHEDULES[config.schedule](config, peak, final, rest)
    return optax.join_schedules([rise, fall], [warmup_steps]) if warmup_steps else fall


def _cosine(config: ConfigDict, peak: float, final: float, num_steps: int) -> optax.Schedule:
    del config
    return optax.cosine_decay_schedule(peak, num_steps, alpha=final / peak if peak else 0.0)


def _linear(config: ConfigDict, peak: float, final: float, num_steps: int) -> optax.Schedule:
    del config
    return optax.linear_schedule(peak, final, num_steps)


def _stable_then_decay(
    config: ConfigDict, peak: float, final: float, num_steps: int
) -> optax.Schedule:
    """Hu et al. (2024): the peak, and at the end a line down, however long it was."""
    share = config.decay_share if 0 < config.decay_share <= 1 else 1.0  # Refused elsewhere.
    decay_steps = max(1, round(share * num_steps))
    return optax.linear_schedule(peak, final, decay_steps, transition_begin=num_steps - decay_steps)


SCHEDULES = {"cosine": _cosine, "linear": _linear, "wsd": _stable_then_decay}


def _adamw(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask
    )


def _muon(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Jordan et al. (2024): momentum made orthogonal; Adam, with no decay, for all but the matrices
    inside the model.
    """
    ratio = config.adam_learning_rate / (config.learning_rate or 1) or 1
    inside = optax.chain(
        muon.scale_by_muon(config.momentum),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    outside = optax.nadam(lambda step: ratio * schedule(step), b1=config.b1, b2=config.b2)
    return optax.partition({True: inside, False: outside}, hidden_mask)


def _lion(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Chen et al. (2023): the sign of the momentum."""
    return optax.lion(
        schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask
    )


def _adafactor(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Shazeer and Stern (2018): running squares by row and column; steps relative to weights."""
    return optax.chain(optax.adafactor(schedule), _decay(config, schedule))


def _sgd(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    momentum = optax.sgd(schedule, momentum=config.momentum, nesterov=True)
    return optax.chain(momentum, _decay(config, schedule))


def _decay(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Weight decay apart from the update, as AdamW has it: learning rate times weight_decay."""
    return optax.add_decayed_weights(
        lambda step: -config.weight_decay * schedule(step), mask=decay_mask
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adamw,
    "muon": _muon,
    "lion": _lion,
    "adafactor": _adafactor,
    "sgd": _sgd,
}


def decay_mask(params: dict) -> dict:
    """True for what weight decay shrinks: the kernels, not biases, norms or embeddings."""
    return _mask(params, lambda names: names[-1] == "kernel")


def hidden_mask(params: dict) -> dict:
    """True for the matrices inside the model: the kernels but that of the head."""
    return _mask(params, lambda names: names[-1] == "kernel" and names[0] != "logits")


def _mask(params: dict, holds: Callable[[list[str]], bool]) -> dict:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: holds([part.key for part in path]), params
    )
