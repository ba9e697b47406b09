"""Optimizers, gradient clipping, and the parameters that each rule is for.

Optimizers differ on the matrices inside the model: muon is for them alone, and `hidden_mask` tells
which they are. Weight decay shrinks those and an untied head: `decay_mask`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from ml_collections import ConfigDict, FrozenConfigDict

from runtime.errors import UserError
from training import muon
from training import schedule as schedules
from training.schedule import Schedule

# Optimizers whose steps have one size whatever the gradient's: muP divides it by width_multiplier.
SIGN_LIKE = ("adamw", "lion")


@dataclass(frozen=True)
class Optimizer:
    """Rule of updates: a TrainState's `tx`, whose update takes the schedule as an argument.

    Were the learning rates a part of it, others would need another program.

    `width_multiplier` is the model's width over the width that the learning rate was found at.
    Hidden matrices take steps, and decay, smaller by that factor (muP: Yang et al., 2021), except
    with muon, whose steps suit any width.
    """

    config: FrozenConfigDict  # Of a whole config's `optimizer` what is not in the schedule.
    width_multiplier: float = 1.0

    def init(self, params: Any) -> Any:
        """Returns the state before the first update."""
        return self.with_rates(Schedule()).init(params)

    def update(
        self, gradient: Any, state: Any, params: Any, *, schedule: Schedule
    ) -> tuple[Any, Any]:
        """Returns what to add to the parameters, and the state after the update."""
        return self.with_rates(schedule).update(gradient, state, params)

    def with_rates(self, schedule: Schedule) -> optax.GradientTransformation:
        """Returns Optax's transformation with the learning rates of `schedule`."""
        chain = [OPTIMIZERS[self.config.name](self.config, schedule)]
        if self.config.grad_clip_norm:
            chain.insert(0, optax.clip_by_global_norm(self.config.grad_clip_norm))
        if self.width_multiplier != 1 and self.config.name in SIGN_LIKE:
            chain.append(optax.masked(optax.scale(1 / self.width_multiplier), hidden_mask))
        return optax.chain(*chain) if chain[1:] else chain[0]


def build(config: ConfigDict, width_multiplier: float = 1.0) -> Optimizer:
    """Returns the optimizer of a whole config's `optimizer`.

    Raises UserError for an unknown name, and for another width where this optimizer has no rule.
    """
    if config.name not in OPTIMIZERS:
        names = ", ".join(OPTIMIZERS)
        raise UserError(f"--config.optimizer.name={config.name!r}: expected one of {names}")
    if width_multiplier != 1 and config.name not in (*SIGN_LIKE, "muon"):
        raise UserError(
            f"--config.optimizer.name={config.name!r} has no rule for --config.model.mup_base_dim: "
            f"expected one of {', '.join(SIGN_LIKE)}, muon"
        )
    kept = {key: value for key, value in config.items() if key not in schedules.KEYS}
    return Optimizer(FrozenConfigDict(kept), width_multiplier)


def _adamw(config: FrozenConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask
    )


def _muon(config: FrozenConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for the matrices inside the model; Adam, undecayed, elsewhere."""
    inside = optax.chain(
        muon.scale_by_muon(config.momentum),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    outside = optax.nadam(schedule.adam, b1=config.b1, b2=config.b2)
    return optax.partition({True: inside, False: outside}, hidden_mask)


def _lion(config: FrozenConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    """Lion (Chen et al., 2023): steps by the sign of the momentum."""
    return optax.lion(
        schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask
    )


def _adafactor(config: FrozenConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern, 2018): running squares by row and column, relative steps."""
    return optax.chain(optax.adafactor(schedule), _decay(config, schedule))


def _sgd(config: FrozenConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    momentum = optax.sgd(schedule, momentum=config.momentum, nesterov=True)
    return optax.chain(momentum, _decay(config, schedule))


def _decay(config: FrozenConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    """Decoupled weight decay, as in AdamW: learning rate times weight_decay."""
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
    """Returns True for what weight decay shrinks: kernels, not biases, norms or embeddings."""
    return _mask(params, lambda names: names[-1] == "kernel")


def hidden_mask(params: dict) -> dict:
    """Returns True for the matrices inside the model: every kernel but the head's."""
    return _mask(params, lambda names: names[-1] == "kernel" and names[0] != "logits")


def _mask(params: dict, selects: Callable[[list[str]], bool]) -> dict:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: selects([entry.key for entry in path]), params
    )
