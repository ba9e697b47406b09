"""Checks of stage 2: attention in loops, the loss without the mask, a head that looks 5 back."""

import itertools
from functools import cache, partial

import jax
import numpy as np

from exercises.checks import heads, training
from exercises.compare import number, same
from exercises.learner import Answer, Wrong
from experiments import default
from models.self_attention import causal_attention as attend

NEAR = 0.5
MASKS = {
    "": lambda distance: distance >= 0,
    "there is no mask: a position also looks at later ones": lambda distance: distance > -99,
    "the mask is off by one: a position does not look at itself": lambda distance: distance > 0,
    "the mask is off by one: a position also looks at the next one": lambda distance: (
        distance >= -1
    ),
    "the mask is the wrong way round: a position looks at later ones": lambda distance: (
        distance <= 0
    ),
}
UNMASKED = [name for name in MASKS if "no mask" in name]
SCALES = {
    "": lambda T, K: K**-0.5,
    "there is no scale 1 / sqrt(K)": lambda T, K: 1.0,
    "the scores are divided by K, not by sqrt(K)": lambda T, K: 1 / K,
    "the scores are multiplied by sqrt(K), not divided": lambda T, K: K**0.5,
    "the scores are divided by sqrt(T), not by sqrt(K)": lambda T, K: T**-0.5,
}
SOFTMAXES = {
    "": "keys",
    "the softmax is over the queries, not over the keys": "queries",
    "the mask comes after the softmax: the weights of a position do not sum to 1": "mask after",
    "later scores are 0 before the softmax, not minus infinity": "zero",
    "there is no softmax: the scores are the weights": "none",
}
AFTER_MASK = ("mask after", "zero")


def weights(q_TK: np.ndarray, k_TK: np.ndarray, mask: str, scale: str, over: str) -> np.ndarray:
    """Returns the attention weights [T, S] with some classic mistakes in them."""
    T, K = q_TK.shape
    distance_TS = np.arange(T)[:, None] - np.arange(T)
    is_seen = MASKS[mask](distance_TS)
    scores = q_TK @ k_TK.T * SCALES[scale](T, K)
    kind = SOFTMAXES[over]
    if kind == "none":
        return np.where(is_seen, scores, 0)
    if kind != "mask after":
        scores = np.where(is_seen, scores, 0 if kind == "zero" else -np.inf)
    axis = 0 if kind == "queries" else 1
    powers = np.exp(scores)
    with np.errstate(invalid="ignore"):
        return powers / powers.sum(axis, keepdims=True) * (is_seen if kind == "mask after" else 1)


def mistaken(q_TK: np.ndarray, k_TK: np.ndarray, v_TK: np.ndarray) -> dict[str, np.ndarray]:
    """Returns {mistakes: the attention with them}, those with the fewest first."""
    choices = sorted(
        itertools.product(MASKS, SCALES, SOFTMAXES), key=lambda names: sum(map(bool, names))
    )
    found = {
        " and ".join(filter(None, names)): weights(q_TK, k_TK, *names) @ v_TK
        for names in choices
        # Without a mask these two are no mistakes.
        if any(names) and not (names[0] in UNMASKED and SOFTMAXES[names[2]] in AFTER_MASK)
    }
    with_q = weights(q_TK, k_TK, "", "", "")
    found["the average is of the keys, not of the values"] = with_q @ k_TK
    found["queries and keys are swapped"] = weights(k_TK, q_TK, "", "", "") @ v_TK
    found["the weights are transposed: row t is the sum over queries"] = with_q.T @ v_TK
    return found


@cache
def examples() -> list[tuple[list[np.ndarray], np.ndarray]]:
    """Returns random queries, keys and values, and their attention by models.self_attention."""
    rng = np.random.default_rng(0)
    found = []
    for T, K in ((7, 3), (4, 5)):
        arrays = [rng.standard_normal((T, K)).astype(np.float32) * 1.5 for _ in range(3)]
        found.append((arrays, np.asarray(jax.jit(attend)(*(one[None] for one in arrays)))[0]))
    return found


def causal_attention(answer: Answer, setting: object) -> str:
    """Compares texts of two lengths with the model's attention."""
    for arrays, expected in examples():
        mistakes = partial(mistaken, *(one.astype(np.float64) for one in arrays))
        same(
            answer.call("causal_attention", *arrays),
            expected,
            "causal_attention",
            "TK",
            mistakes,
            1e-4,
        )
    return ""


def loss_without_mask(answer: Answer, setting: object) -> str:
    """Trains stage 2 without its mask."""
    predicted = number(answer.call("loss_without_mask"), "loss_without_mask")
    changes = {
        "model.embed_dim": 32,
        "model.context_length": 16,
        "optimizer.learning_rate": 2e-2,
        "optimizer.warmup_steps": 30,
        "train.batch_size": 32,
        "train.num_steps": 300,
        "eval.batch_size": 256,
        "train.precision": "float32",
    }
    measured = training.val_loss(f"{default.LADDER[1]}:without_mask", changes)
    if abs(predicted - measured) > NEAR:
        side = "lower" if measured < predicted else "higher"
        raise Wrong(
            f"predicted {predicted:.3g} nats, measured a number that is "
            f"{abs(predicted - measured):.2f} {side}"
        )
    return (
        f"predicted {predicted:.2f}, measured {measured:.2f}; only the last position of a window "
        "can't see its target"
    )


def five_back(answer: Answer, setting: object) -> str:
    """Runs stage 2's model with the weights of the answer."""
    weights_HTS = heads.weights(answer, "five_back", 1, 64)
    least = heads.check_distance(weights_HTS[0], 5, "the head")
    return f"at least {least:.2f} of the weight is 5 back"
