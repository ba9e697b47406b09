"""Fits a scaling law of the loss over parameters and tokens to the runs of a sweep.

L(N, D) = E + A / N^a + B / D^b, Hoffmann et al. (2022), approach 3: E is the irreducible loss, N
the number of parameters outside of embeddings, D the tokens seen in training. The fit minimizes the
Huber loss of log L; bootstrap over runs gives confidence intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import gpt2, sizes
from reporting.runs import Run, number

# A fit of five coefficients needs at least so many runs, and so many values of N and of D.
MIN_RUNS, MIN_VALUES = 8, 3
# Settings that may differ between the runs, besides learning rates and batches.
SHAPE = ("model.num_layers", "model.embed_dim", "model.num_heads")
BOOTSTRAP_SAMPLES = 200
HUBER_DELTA = 1e-3
# Upper bound of the search for the best size.
MAX_LOG_SIZE = np.log(1e15)
COEFFICIENTS = ("E", "A", "a", "B", "b")


@dataclass(frozen=True)
class Points:
    """Finished runs as columns, one value for each run."""

    runs: list[Run]
    parameters: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    loss: np.ndarray

    def where(self, chosen: np.ndarray) -> "Points":
        """Returns the rows that a mask or an array of indices selects."""
        runs = [self.runs[i] for i in np.arange(len(self.runs))[chosen]]
        columns = (self.parameters, self.tokens, self.flops, self.loss)
        return Points(runs, *(column[chosen] for column in columns))


@dataclass(frozen=True)
class Law:
    """Fitted coefficients in the order of `COEFFICIENTS`, and a row of them per bootstrap sample.

    `flops_per_pair` is the training cost of a parameter and token at each of the trained `sizes`,
    which ascend: 6 FLOPs, and the share of attention and the head.
    """

    coefficients: np.ndarray
    bootstrap: np.ndarray
    sizes: np.ndarray
    flops_per_pair: np.ndarray

    def loss(self, parameters: Any, tokens: Any) -> np.ndarray:
        """Returns the predicted loss for numbers or arrays of parameters and tokens."""
        return predict(self.coefficients, np.asarray(parameters, float), np.asarray(tokens, float))

    def interval(self, parameters: float, tokens: float) -> tuple[float, float]:
        """Returns the 95 % bootstrap interval of the predicted loss."""
        losses = predict(self.bootstrap.T, np.array(parameters), np.array(tokens))
        low, high = np.percentile(losses, (2.5, 97.5))
        return float(low), float(high)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Each coefficient with its 95 % bootstrap interval: (value, low, high)."""
        low, high = np.percentile(self.bootstrap, (2.5, 97.5), axis=0)
        values = zip(self.coefficients.tolist(), low.tolist(), high.tolist(), strict=True)
        return dict(zip(COEFFICIENTS, values, strict=True))

    def flops_per_token(self, parameters: Any) -> np.ndarray:
        """Returns the training cost of a token. Interpolates the cost of a parameter and token
        between trained sizes, and beyond them takes the nearest.
        """
        pair = np.interp(np.log(parameters), np.log(self.sizes), self.flops_per_pair)
        return parameters * pair

    def loss_for_flops(self, parameters: Any, flops: float) -> np.ndarray:
        """Returns the predicted loss of sizes that are each trained for `flops`."""
        return self.loss(parameters, flops / self.flops_per_token(parameters))

    def best_size(self, flops: float) -> float:
        """Returns the number of parameters with the lowest loss for a compute budget."""
        from scipy.optimize import minimize_scalar

        def loss(log_size: float) -> float:
            return float(self.loss_for_flops(np.exp(log_size), flops))

        # Equation 4 of Hoffmann et al., which holds where a pair costs the same at all sizes.
        _, A, a, B, b = self.coefficients
        pairs = flops / np.array([self.flops_per_pair.max(), self.flops_per_pair.min()])
        logs = (np.log(a * A / (b * B)) + b * np.log(pairs)) / (a + b)
        low, high = np.clip(logs, 0, MAX_LOG_SIZE)
        bounds = low - 2, high + 2
        return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def points(runs: Sequence[Run]) -> Points | None:
    """Returns the runs as points of a law; None if too few, or if more than their size differs.

    Seeds of one size with one number of tokens are one point: runs of a few sizes at equal compute,
    where tokens follow from the size, do not determine a law of both.
    """
    chosen, rows = [], []
    for run in runs:
        size = number(run.summary.get("num_params_without_embeddings"))
        row = [size, *map(run.last, ("tokens_seen", "train_flops", "val/loss"))]
        if all(row):
            chosen.append(run)
            rows.append(row)
    if len(rows) < MIN_RUNS or len({(_fixed(run), run.vocab_size) for run in chosen}) != 1:
        return None
    found = Points(chosen, *np.array(rows, float).T)
    places = np.unique(np.stack([found.parameters, found.tokens.round(-4)]), axis=1)
    counts = (len(np.unique(x)) for x in places)
    return None if places.shape[1] < MIN_RUNS or min(counts) < MIN_VALUES else found


def _fixed(run: Run) -> tuple[tuple[str, str], ...]:
    """Returns the settings that must be equal in all runs."""
    groups = ("model.", "data.", "optimizer.name", "optimizer.schedule")
    return tuple(
        (key, str(value))
        for key, value in sorted(run.config.items())
        if key.startswith(groups) and key not in SHAPE
    )


def predict(coefficients: np.ndarray, parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Returns L(N, D)."""
    E, A, a, B, b = coefficients
    return E + A / parameters**a + B / tokens**b


def fit(data: Points, num_bootstrap: int = BOOTSTRAP_SAMPLES) -> Law:
    """Fits the law to the points, and to bootstrap samples of them."""
    best = min((_search(data, start) for start in _starts(data)), key=lambda found: found.cost)
    generator = np.random.default_rng(0)
    bootstrap = []
    for _ in range(num_bootstrap):
        sample = data.where(generator.integers(0, len(data.runs), len(data.runs)))
        bootstrap.append(_coefficients(_search(sample, best.x).x))
    sizes = np.unique(data.parameters)
    pairs = data.flops / (data.parameters * data.tokens)
    costs = np.array([pairs[data.parameters == size].mean() for size in sizes])
    return Law(_coefficients(best.x), np.array(bootstrap), sizes, costs)


def _search(data: Points, start: np.ndarray) -> Any:
    """Returns SciPy's robust least-squares result over (log E, log A, a, log B, b)."""
    from scipy.optimize import least_squares

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.log(predict(_coefficients(x), data.parameters, data.tokens)) - np.log(data.loss)

    bounds = np.array([(-5, 2), (-5, 25), (0.01, 3), (-5, 25), (0.01, 3)], float).T
    start = np.clip(start, bounds[0] + 1e-6, bounds[1] - 1e-6)
    return least_squares(residuals, start, bounds=bounds, loss="huber", f_scale=HUBER_DELTA)


def _coefficients(x: np.ndarray) -> np.ndarray:
    log_E, log_A, a, log_B, b = x
    return np.array([np.exp(log_E), np.exp(log_A), a, np.exp(log_B), b])


def _starts(data: Points) -> list[np.ndarray]:
    """Returns starting points: E as a share of the lowest loss, and pairs of exponents."""
    least, spread = data.loss.min(), np.ptp(data.loss) + 0.1
    N, D = data.parameters.min(), data.tokens.min()
    return [
        np.array([np.log(share * least), np.log(spread * N**a), a, np.log(spread * D**b), b])
        for share, a, b in product((0.3, 0.6, 0.9), (0.2, 0.5), (0.2, 0.5, 1.0))
    ]


def held_out(data: Points) -> tuple[Law, Points] | None:
    """Returns a law fitted without the largest size, and the runs of that size.

    None if the rest is too few for a fit.
    """
    is_largest = data.parameters == data.parameters.max()
    rest = data.where(~is_largest)
    if len(rest.runs) < MIN_RUNS or len(np.unique(rest.parameters)) < MIN_VALUES:
        return None
    return fit(rest, num_bootstrap=0), data.where(is_largest)


def next_rung(data: Points) -> tuple[str, float] | None:
    """Returns name and parameters of the ladder's next size, with the runs' other settings.

    None if the runs are not of the ladder's sizes, or the largest is its last.
    """
    configs = [run.config for run in data.runs]
    depths = [number(config.get("model.num_layers")) or 0 for config in configs]
    widths = [number(config.get("model.embed_dim")) for config in configs]
    if 0 in depths or widths != [sizes.HEAD_DIM * depth for depth in depths]:
        return None
    rung = int(max(depths)) + 1
    if rung > sizes.LARGEST_RUNG:
        return None
    model = gpt2.get_config().model
    same = {key: configs[0].get(f"model.{key}", value) for key, value in model.items()}
    return f"ladder-{rung}", float(sizes.rung_parameters(rung, ConfigDict(same)).rest)


def statements(data: Points, law: Law) -> list[str]:
    """Describes the fit, the best sizes and the predictions, a sentence each."""
    coefficients = ", ".join(
        f"{name} = {value:.3g} ({low:.3g} to {high:.3g})"
        for name, (value, low, high) in law.intervals.items()
    )
    errors = 100 * np.abs(law.loss(data.parameters, data.tokens) / data.loss - 1)
    sentences = [
        f"L(N, D) = E + A/N^a + B/D^b fits {len(data.runs)} runs within {errors.max():.1f} %, on "
        f"average {errors.mean():.1f} %: {coefficients}; in brackets the 95 % bootstrap interval."
    ]
    for flops in (data.flops.max(), 10 * data.flops.max()):
        size = law.best_size(flops)
        cost = float(law.flops_per_token(size))
        tokens = flops / cost
        is_near = is_in_range(size, data.parameters) and is_in_range(tokens, data.tokens)
        sentences.append(
            f"The best size for {flops:.1e} FLOPs is {size:,.0f} parameters outside of embeddings "
            f"on {tokens:,.0f} tokens: {law.loss(size, tokens):.3f} (at {cost / size:.1f} FLOPs "
            f"per parameter and token{'' if is_near else '; far outside of the trained range'})."
        )
    if tested := held_out(data):
        earlier, largest = tested
        predicted = earlier.loss(largest.parameters, largest.tokens)
        tests = "; ".join(
            f"{round_tokens(tokens):,.0f} tokens: {guess:.3f} predicted, {loss:.3f} measured, "
            f"{100 * (guess / loss - 1):+.1f} %"
            for tokens, guess, loss in sorted(
                zip(largest.tokens, predicted, largest.loss, strict=True)
            )
        )
        size = largest.parameters[0]
        sentences.append(f"A fit to the smaller sizes alone, at {size:,.0f} parameters: {tests}.")
    if rung := next_rung(data):
        name, size = rung
        predictions = "; ".join(
            f"{tokens:,.0f} tokens: {law.loss(size, tokens):.3f} ({low:.3f} to {high:.3f})"
            for tokens in sorted({round_tokens(tokens) for tokens in data.tokens})
            for low, high in [law.interval(size, tokens)]
        )
        sentences.append(f"Prediction for {name}, {size:,.0f} parameters: {predictions}.")
    return sentences


def is_in_range(value: float, values: np.ndarray) -> bool:
    """Returns True from half the smallest of the values to twice the largest."""
    return bool(values.min() / 2 <= value <= 2 * values.max())


def round_tokens(tokens: float) -> float:
    """Returns a token budget; runs end at the last full batch within it."""
    return float(f"{tokens:.3g}")
