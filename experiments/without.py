"""Presets that leave one idea out of a stage: `:without_scale`, or `:smoke+without_scale`.

models/without.py has the ideas that `model.without` leaves out; settings do for the others.
sweeps/ideas.yaml compares a stage with and without each.
"""

from ml_collections import ConfigDict

from experiments import default
from experiments.default import Preset
from runtime.errors import UserError

# By stage, the ideas that are new in it; each later stage has them, too.
_INTRODUCED: dict[str, dict[str, Preset]] = {
    "self_attention": {name: {"model.without": name} for name in ("scale", "mask", "positions")},
    "multi_head_attention": {
        "heads": {"model.num_heads": 1},  # One head with as many parameters.
        "projection": {"model.without": "projection"},
    },
    "transformer_decoder": {
        name: {"model.without": name} for name in ("residual", "layer_norm", "mlp")
    },
    "gpt2": {
        "dropout": {"model.dropout_rate": 0.0},
        "gelu": {"model.activation": "relu"},
        "biases": {"model.use_bias": False},
        "initialization": {"model.without": "initialization"},
        "tied_embeddings": {"model.tied_embeddings": False},
    },
}
PREFIX = "without_"
# Families of presets, by their spelling.
FAMILIES = {"without_<idea>": "the stage without scale, mask, positions, ... (models/without.py)"}


def ideas(stage: str) -> dict[str, Preset]:
    """Returns {idea: what leaves it out} for the ideas of `stage` and of those before it."""
    place = default.LADDER.index(stage)
    return {
        idea: changes
        for earlier in default.LADDER[: place + 1]
        for idea, changes in _INTRODUCED.get(earlier, {}).items()
    }


def family(preset: str, config: ConfigDict) -> dict[str, Preset]:
    """Returns {preset: its changes to `config`} for each idea of the config's stage.

    W&B draws a curve for each group of runs. Raises UserError for an idea that the stage lacks.
    """
    stage = config.model.name
    if not preset.startswith(PREFIX):
        return {}
    found = {
        PREFIX + idea: {**changes, "tracking.group": f"{stage} {PREFIX}{idea}"}
        for idea, changes in ideas(stage).items()
    }
    if preset not in found:
        raise UserError(f"preset {preset!r}: expected one of {', '.join(found)}")
    return found
