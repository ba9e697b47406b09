"""Comparison of stages 2 to 5 at equal compute: sizes, protocol, and the points that were found.

sweeps/tune_stages.py searches the best point of each stage for each budget of training FLOPs, and
writes it to comparison.json. docs/comparison.md describes the protocol and what came out.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import default
from experiments.default import Preset
from runtime.errors import UserError

STAGES = default.LADDER[1:]
# Of training FLOPs, as they are written in presets.
BUDGETS = ("1e10", "3e10", "1e11", "3e11", "1e12", "3e12", "1e13")
# Sizes of a single layer (stages 2 and 3) by width, and of a stack (stages 4 and 5) by blocks and
# width. Each has 1.3 to 4 times the weights of the one before.
WIDTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
STACKS = (
    (1, 16),
    (1, 32),
    (1, 64),
    (2, 64),
    (2, 96),
    (3, 96),
    (3, 128),
    (4, 128),
    (4, 192),
    (6, 192),
)
NUM_SIZES = len(WIDTHS)
# The other stage with the same sizes.
SAME_SIZES = dict(zip(STAGES, (STAGES[1], STAGES[0], STAGES[3], STAGES[2]), strict=True))
CHOSEN = Path(__file__).with_suffix(".json")

# What all runs of a comparison share; one optimizer serves all stages.
_SHARED: Preset = {
    "optimizer.schedule": "linear",
    "train.precision": "bfloat16",
    # Losses before the learning rate has decayed say little about the budget.
    "eval.every_steps": 0,
    "sample.every_steps": 0,
}
OPTIMIZERS: dict[str, Preset] = {
    "adamw": {**_SHARED, "optimizer.name": "adamw", "optimizer.warmup_steps": 100},
    "muon": {
        **_SHARED,
        "optimizer.name": "muon",
        "optimizer.momentum": 0.9,
        "optimizer.warmup_steps": 40,
    },
}
# A stage whose loss fell by less than this from a budget to the next, three times as large, is at
# its floor. Seeds differ by as much.
FLOOR = 0.005
# The budget whose points are compared at equal tokens.
FOR_TOKENS = "1e12"
# Config keys that the search varies, besides the size.
SEARCHED = (
    "train.batch_size",
    "model.context_length",
    "optimizer.learning_rate",
    "optimizer.adam_learning_rate",
)
# Families of presets, by their spelling.
FAMILIES = {
    "size-<n>": "size n of the stage, from 1",
    "tune-<optimizer>": "what all runs of a comparison with adamw or muon share",
    "flops-<budget>-<optimizer>": "the best point found for a budget of FLOPs: flops-1e12-muon",
    "tokens-<n>M-<optimizer>": "n million tokens, with the point found for 1e12 FLOPs",
}


def size(stage: str, number: int) -> Preset:
    """Returns the shape of size `number`, from 1: heads of 16 in a single layer, 32 in a stack."""
    if stage in ("transformer_decoder", "gpt2"):
        num_layers, width = STACKS[number - 1]
        return {
            "model.num_layers": num_layers,
            "model.num_heads": max(1, width // 32),
            "model.embed_dim": width,
        }
    width = WIDTHS[number - 1]
    num_heads = {"model.num_heads": width // 16} if stage == "multi_head_attention" else {}
    return {"model.embed_dim": width, **num_heads}


def _protocol(stage: str, optimizer: str) -> Preset:
    """Returns what all runs of a stage share; W&B draws a curve for each group of runs."""
    return {**OPTIMIZERS[optimizer], "tracking.group": f"{stage} {optimizer}"}


@cache
def chosen() -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Returns the points that were found, by optimizer, stage and budget."""
    return json.loads(CHOSEN.read_text()) if CHOSEN.exists() else {}


def family(preset: str, config: ConfigDict) -> dict[str, Preset]:
    """Returns {preset: its changes to `config`} if the name belongs to one of FAMILIES, else {}.

    Raises UserError for an unknown size, optimizer or budget.
    """
    stage = config.model.name
    if found := re.fullmatch(r"size-(\d+)", preset):
        if not 1 <= int(found[1]) <= NUM_SIZES:
            raise UserError(f"preset {preset!r}: expected size-1 to size-{NUM_SIZES}")
        return {preset: size(stage, int(found[1]))}
    if found := re.fullmatch(r"tune-(.*)", preset):
        if found[1] not in OPTIMIZERS:
            raise UserError(f"preset {preset!r}: expected tune- and one of {', '.join(OPTIMIZERS)}")
        return {preset: _protocol(stage, found[1])}
    if found := re.fullmatch(r"flops-([^-]*)-(.*)", preset):
        budget, optimizer = found[1], found[2]
        if budget not in _points(optimizer, stage):
            known = ", ".join(
                f"flops-{budget}-{name}" for name in OPTIMIZERS for budget in _points(name, stage)
            )
            raise UserError(f"preset {preset!r}: expected one of {known or 'none, so far'}")
        return {preset: {**_at(stage, optimizer, budget), "train.flops": float(budget)}}
    if found := re.fullmatch(r"tokens-(\d+(?:\.\d+)?)M-(.*)", preset):
        optimizer = found[2]
        known = ", ".join(name for name in OPTIMIZERS if FOR_TOKENS in _points(name, stage))
        if FOR_TOKENS not in _points(optimizer, stage):
            raise UserError(
                f"preset {preset!r}: expected tokens-<n>M- and one of {known or 'none, so far'}"
            )
        changes = _at(stage, optimizer, FOR_TOKENS)
        tokens_per_step = changes["train.batch_size"] * changes["model.context_length"]
        num_steps = round(1e6 * float(found[1]) / tokens_per_step)
        if not num_steps:
            raise UserError(f"preset {preset!r}: expected at least a batch of {tokens_per_step}")
        return {preset: {**changes, "train.num_steps": num_steps, "train.flops": 0.0}}
    return {}


def _points(optimizer: str, stage: str) -> dict[str, dict[str, Any]]:
    """Returns the points that were found for a stage, by budget."""
    return chosen().get(optimizer, {}).get(stage, {})


def _at(stage: str, optimizer: str, budget: str) -> Preset:
    """Returns the point that was found for a budget, without its length."""
    point = _points(optimizer, stage)[budget]
    return {
        **_protocol(stage, optimizer),
        **size(stage, point["size"]),
        **{key: point[key] for key in SEARCHED if key in point},
    }


def enough(stage: str, optimizer: str, budget: str) -> str:
    """Returns the smallest budget whose point is as good as those up to `budget`, to `FLOOR`.

    It is `budget` itself, or a smaller one where the stage is at its floor before.
    """
    losses = {
        one: point["val/loss"]
        for one, point in _points(optimizer, stage).items()
        if float(one) <= float(budget)
    }
    good = [one for one, loss in losses.items() if loss < min(losses.values()) + FLOOR]
    return min(good, key=float)
