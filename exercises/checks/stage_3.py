"""Checks of stage 3: heads split and joined, the best number of heads, two heads set by hand."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np

from exercises.compare import same, whole
from exercises.learner import Answer, Wrong
from experiments import default

ROOT = Path(__file__).parents[2]
MEASURED = "docs/measured/heads.json"


def split_heads(answer: Answer, setting: object) -> str:
    """Compares both changes of shape on numbered elements."""
    B, T, H, K = 2, 5, 3, 4
    D = H * K
    x_BTD = np.arange(B * T * D, dtype=np.float64).reshape(B, T, D)
    split_BHTK = np.moveaxis(x_BTD.reshape(B, T, H, K), 2, 1)
    mistakes: dict[str, np.ndarray] = {
        "reshape alone mixes positions: the first head gets the first positions": x_BTD.reshape(
            B, H, T, K
        ),
        "the columns are dealt out in turn: K must be the last axis of the reshape": (
            x_BTD.reshape(B, T, K, H).transpose(0, 3, 1, 2)
        ),
        "the heads are still behind T: a transpose is missing": x_BTD.reshape(B, T, H, K),
        "H comes before B": np.moveaxis(split_BHTK, 1, 0),
        "the last two axes are swapped": split_BHTK.swapaxes(2, 3),
    }
    found = answer.call("split_heads", x_BTD, H)
    same(found, split_BHTK, "split_heads", "BHTK", mistakes)
    mistakes = {
        "reshape alone mixes positions: transpose first, so that H is beside K": (
            split_BHTK.reshape(B, T, D)
        ),
        "the heads alternate: K must be the last axis before the reshape": (
            split_BHTK.transpose(0, 2, 3, 1).reshape(B, T, D)
        ),
    }
    same(answer.call("merge_heads", split_BHTK), x_BTD, "merge_heads", "BTD", mistakes)
    return ""


def losses_by_heads() -> dict[int, float]:
    """Returns the mean validation loss of stage 3 by its number of heads, as measured."""
    losses = defaultdict(list)
    for run in json.loads((ROOT / MEASURED).read_text())["runs"]:
        if run["model.name"] == default.LADDER[2]:
            losses[run["model.num_heads"]].append(run["val/loss"])
    return {number: mean(values) for number, values in losses.items()}


def best_number_of_heads(answer: Answer, setting: object) -> str:
    """Reads the measured losses."""
    predicted = whole(answer.call("best_number_of_heads"), "best_number_of_heads")
    losses = losses_by_heads()
    if predicted not in losses:
        known = ", ".join(map(str, sorted(losses)))
        raise Wrong(f"best_number_of_heads returned {predicted}: expected one of {known}")
    best = min(losses, key=losses.__getitem__)
    above = losses[predicted] - losses[best]
    if predicted != best:
        side = "more" if best > predicted else "fewer"
        raise Wrong(
            f"{predicted} heads ended {above:.2f} nats above the best, which has {side} heads "
            f"({MEASURED})"
        )
    return f"{losses[best]:.3f} nats with {best} heads, {losses[1]:.3f} with one ({MEASURED})"


def two_and_five_back(answer: Answer, setting: object) -> str:
    """Runs stage 3's model with the weights of the answer."""
    from exercises.checks import heads  # JAX takes seconds to load.

    weights_HTS = heads.weights(answer, "two_and_five_back", 2, 128)
    distances = (2, 5)
    if _both(weights_HTS, distances[::-1]):
        raise Wrong("the heads are swapped: head 1, the first K columns, must look 2 back")
    least = [
        heads.check_distance(weights_TS, distance, f"head {number}")
        for number, (weights_TS, distance) in enumerate(zip(weights_HTS, distances, strict=True), 1)
    ]
    return f"at least {min(least):.2f} of the weight is where it should be"


def _both(weights_HTS: np.ndarray, distances: tuple[int, ...]) -> bool:
    """Returns True if each head looks as far back as given."""
    from exercises.checks import heads

    try:
        for weights_TS, distance in zip(weights_HTS, distances, strict=True):
            heads.check_distance(weights_TS, distance, "")
    except Wrong:
        return False
    return True
