"""Checks of stage 4: LayerNorm, the residual block, the previous-token head of a run."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import harness
import run_folder
from exercises.compare import same
from exercises.learner import Answer, Wrong
from inspection import heads
from models.multi_head_attention import MultiHeadAttention
from models.transformer_decoder import Block, LayerNorm, Mlp
from runtime.errors import UserError

EPSILON = 1e-5
STAGE = 4


_apply_norm = jax.jit(LayerNorm().apply)


def normalized(x: np.ndarray, axis: Any = -1, epsilon: float = EPSILON, ddof: int = 0) -> Any:
    """Returns features of mean 0 and variance 1."""
    centred = x - x.mean(axis, keepdims=True)
    with np.errstate(all="ignore"):
        return centred / np.sqrt(x.var(axis, keepdims=True, ddof=ddof) + epsilon)


def layer_norm(answer: Answer, setting: object) -> str:
    """Compares random features, some of them with a tiny variance, with the model's LayerNorm."""
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((2, 5, 7)) + 2
    x[1, 3:] = 3e-3 * rng.standard_normal((2, 7))
    x = x.astype(np.float32).astype(np.float64)
    scale, shift = rng.uniform(0.5, 2, 7).astype(np.float32), rng.standard_normal(7)
    variables = {"params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(shift, jnp.float32)}}
    expected = np.asarray(_apply_norm(variables, jnp.asarray(x, jnp.float32)))
    centred, std = x - x.mean(-1, keepdims=True), x.std(-1, keepdims=True)
    mistakes = {
        "the epsilon is missing": normalized(x, epsilon=0) * scale + shift,
        "the epsilon is added to the standard deviation, not to the variance": (
            centred / (std + EPSILON) * scale + shift
        ),
        "the variance is divided by D - 1 (ddof=1), not by D": (
            normalized(x, ddof=1) * scale + shift
        ),
        "mean and variance are over T, not over the D features": (
            normalized(x, axis=1) * scale + shift
        ),
        "mean and variance are over B, not over the D features": (
            normalized(x, axis=0) * scale + shift
        ),
        "mean and variance are over T and D, not over D alone": (
            normalized(x, axis=(1, 2)) * scale + shift
        ),
        "mean and variance are over the whole array, not over the D features of each position": (
            normalized(x, axis=(0, 1, 2)) * scale + shift
        ),
        "the scale is missing": normalized(x) + shift,
        "the shift is missing": normalized(x) * scale,
        "scale and shift are missing": normalized(x),
        "the shift comes before the scale": (normalized(x) + shift) * scale,
        "divided by the variance, not by its square root": (
            centred / (std**2 + EPSILON) * scale + shift
        ),
        "the mean is not subtracted": x / np.sqrt(std**2 + EPSILON) * scale + shift,
        "the variance is not divided out: features have mean 0 only": centred * scale + shift,
    }
    args = (x, scale.astype(np.float64), shift, EPSILON)
    same(answer.call("layer_norm", *args), expected, "layer_norm", "BTD", mistakes, 1e-4)
    constant = np.full((1, 2, 3), 4.0)
    args = (constant, np.ones(3), np.zeros(3), EPSILON)
    same(
        answer.call("layer_norm", *args), np.zeros((1, 2, 3)), "layer_norm of equal features", "BTD"
    )
    return ""


Layer = Callable[[np.ndarray], np.ndarray]


def mistaken(x: np.ndarray, norm_1: Layer, attend: Layer, norm_2: Layer, mlp: Layer) -> Any:
    """Returns {mistake: the output of a block with it}."""
    after = x + attend(norm_1(x))
    right = after + mlp(norm_2(after))
    without_first, chained = attend(norm_1(x)), mlp(norm_2(attend(norm_1(x))))
    post = norm_1(x + attend(x))
    return {
        "nothing is added to the stream: x + is missing twice": chained,
        "the stream is not added after attention: x + is missing": (
            without_first + mlp(norm_2(without_first))
        ),
        "the stream is not added after the MLP: x + is missing": mlp(norm_2(after)),
        "the MLP's result is missing": after,
        "the attention's result is missing": x + mlp(norm_2(x)),
        "the norms come after the sums: this block has them before each layer": (
            norm_2(post + mlp(post))
        ),
        "the norms are missing": x + attend(x) + mlp(x + attend(x)),
        "the attention gets the stream without its norm": x
        + attend(x)
        + mlp(norm_2(x + attend(x))),
        "the MLP gets the stream without its norm": after + mlp(after),
        "the MLP gets the stream as it was before attention": after + mlp(norm_2(x)),
        "the MLP gets the attention's result alone, not the stream": (
            after + mlp(norm_2(without_first))
        ),
        "the second sum starts from the old stream: attention's result is lost": (
            x + mlp(norm_2(after))
        ),
        "the second sum adds to the normalized stream": norm_2(after) + mlp(norm_2(after)),
        "the first sum adds to the normalized stream": (
            (again := norm_1(x) + attend(norm_1(x))) + mlp(norm_2(again))
        ),
        "attention's norm is used twice": after + mlp(norm_1(after)),
        "the two norms are swapped": (other := x + attend(norm_2(x))) + mlp(norm_1(other)),
        "the stream is added once more at the end": right + x,
    }


@cache
def example_block() -> tuple[np.ndarray, list[Layer], np.ndarray]:
    """Returns an input, the four layers of a block with random weights, and its output."""
    model = Block(num_heads=2, context_length=5)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 6)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(
        lambda leaf: (0.5 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes
    )
    modules = {
        "attention_norm": LayerNorm(),
        "attention": MultiHeadAttention(2, 5),
        "mlp_norm": LayerNorm(),
        "mlp": Mlp(),
    }

    compiled = {name: jax.jit(module.apply) for name, module in modules.items()}

    def layer(name: str) -> Layer:
        def run(values: np.ndarray) -> np.ndarray:
            if np.shape(values) != x.shape:
                raise ValueError(f"{name} got shape {np.shape(values)}: expected {x.shape}")
            inputs = jnp.asarray(values, jnp.float32)
            return np.asarray(compiled[name]({"params": params[name]}, inputs))

        return run

    layers = [layer(name) for name in modules]
    for run in layers:
        run(x)  # Compiled here, not in the learner's time.
    return x, layers, np.asarray(jax.jit(model.apply)({"params": params}, x))


def block(answer: Answer, setting: object) -> str:
    """Compares the joined layers with the model's Block, all with the same random weights."""
    x, layers, expected = example_block()
    same(
        answer.call("block", x, *layers),
        expected,
        "block",
        "BTD",
        lambda: mistaken(x, *layers),
        1e-4,
    )
    return ""


def decoder_run(folder: Path) -> harness.Run:
    """Returns the run of stage 4 in a run folder or a folder of them. Raises Wrong for none."""
    places = [folder, *sorted(folder.glob("*"))] if folder.is_dir() else []
    for place in places:
        try:
            config = run_folder.read_object(place / run_folder.CONFIG)
            if config["tracking"]["stage"] == STAGE:
                return harness.open_run(place)
        except (UserError, KeyError, TypeError):
            continue
    raise Wrong(
        f"no run of stage 4 in {folder}: run `make ladder` first, or name one with --run=FOLDER"
    )


def previous_token_head(answer: Answer, setting: Any) -> str:
    """Measures all heads of the learner's run on the validation split."""
    given = answer.call("previous_token_head")
    if not isinstance(given, tuple | list) or len(given) != 2 or not all(map(_is_int, given)):
        raise Wrong(f"previous_token_head returned {given!r:.60}: expected (block, head)")
    run = decoder_run(setting.run)
    tokens = np.asarray(run.splits()["val"])
    T = run.config.model.context_length
    measured = heads.measure_scores(run.model, run.params, tokens, T)
    assert measured is not None
    masses = {(row["layer"], row["head"]): row["previous"] for row in measured["heads"]}
    chosen = int(given[0]), int(given[1])
    if chosen not in masses:
        blocks, num_heads = max(masses)
        raise Wrong(
            f"({chosen[0]}, {chosen[1]}) is no head of {run.workdir}: expected block 1 to {blocks} "
            f"and head 1 to {num_heads}"
        )
    best = max(masses, key=masses.__getitem__)
    if chosen != best:
        raise Wrong(
            f"block {chosen[0]}, head {chosen[1]} gives {masses[chosen]:.3f} of its weight to the "
            f"token before, another head {masses[best]:.3f} ({run.workdir})"
        )
    return f"it gives {masses[best]:.2f} of its weight to the token before ({run.workdir})"


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
