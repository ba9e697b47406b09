"""How the loss falls with parameters and tokens: a law fitted to the runs of a sweep.

L(N, D) = E + A / N^a + B / D^b, Hoffmann et al. (2022), approach 3: E is what no model predicts, N
counts the parameters outside of embeddings, D the tokens seen in training. Fitted to log L with
Huber's loss; intervals come from runs drawn anew with replacement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ml_collections import ConfigDict

from experiments import gpt2, sizes
from reporting.runs import Run, number

# Five numbers are fitted: with less than this of anything there is no law to see.
LEAST_RUNS, LEAST_VALUES = 8, 3
# What may differ between the runs of one law, besides learning rates and batches.
SHAPE = ("model.num_layers", "model.embed_dim", "model.num_heads")
DRAWS = 200
HUBER = 1e-3
# Log of the most parameters that are looked for.
LARGEST = np.log(1e15)
NAMES = ("E", "A", "a", "B", "b")


@dataclass(frozen=True)
class Points:
    """Finished runs as four columns."""

    runs: list[Run]
    parameters: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    loss: np.ndarray

    def where(self, chosen: np.ndarray) -> "Points":
        """The rows that a mask or an array of places chooses."""
        runs = [self.runs[i] for i in np.arange(len(self.runs))[chosen]]
        columns = (self.parameters, self.tokens, self.flops, self.loss)
        return Points(runs, *(column[chosen] for column in columns))


@dataclass(frozen=True)
class Law:
    """The five numbers, in the order of `NAMES`, and as many rows of them from runs drawn anew."""

    values: np.ndarray
    draws: np.ndarray
    # The sizes trained, in order, and what a token costs each of them for each parameter: 6 FLOPs,
    # and what attention and the head take.
    sizes: np.ndarray
    flops_per_pair: np.ndarray

    def loss(self, parameters, tokens) -> np.ndarray:
        """What the law says of so many parameters and tokens."""
        return predict(self.values, np.asarray(parameters, float), np.asarray(tokens, float))

    def interval(self, parameters: float, tokens: float) -> tuple[float, float]:
        """Where 95 % of the laws from runs drawn anew put that loss."""
        found = [predict(one, np.array(parameters), np.array(tokens)) for one in self.draws]
        return tuple(float(x) for x in np.percentile(found, (2.5, 97.5)))

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Each number with the ends of its 95 % interval."""
        ends = np.percentile(self.draws, (2.5, 97.5), axis=0)
        return {
            name: (float(self.values[i]), float(ends[0, i]), float(ends[1, i]))
            for i, name in enumerate(NAMES)
        }

    def flops_per_token(self, parameters) -> np.ndarray:
        """What training so many parameters takes for a token: between the sizes that were trained
        interpolated, beyond them for each parameter as at the nearest.
        """
        share = np.interp(np.log(parameters), np.log(self.sizes), self.flops_per_pair)
        return parameters * share

    def best_size(self, flops: float) -> float:
        """The parameters that reach the lowest loss for so many FLOPs."""
        from scipy.optimize import minimize_scalar

        def loss(log_size: float) -> float:
            size = np.exp(log_size)
            return float(self.loss(size, flops / self.flops_per_token(size)))

        # Equation 4 of Hoffmann et al., where a token costs all sizes alike for a parameter.
        _, A, a, B, b = self.values
        pairs = flops / np.array([self.flops_per_pair.max(), self.flops_per_pair.min()])
        logs = (np.log(a * A / (b * B)) + b * np.log(pairs)) / (a + b)
        low, high = np.clip(logs, 0, LARGEST)
        bounds = low - 2, high + 2
        return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def points(runs: Sequence[Run]) -> Points | None:
    """The runs as points of a law; None if they vary too little for one, or in more than size."""
    rows = []
    for run in runs:
        size = number(run.summary.get("num_params_without_embeddings"))
        values = [size, *map(run.last, ("tokens_seen", "train_flops", "val/loss"))]
        if all(values):
            rows.append((run, *values))
    kinds = {(_kind(run), run.vocab_size) for run, *_ in rows}
    if len(rows) < LEAST_RUNS or len(kinds) != 1:
        return None
    found, *columns = zip(*rows, strict=True)
    made = Points(list(found), *(np.array(column, float) for column in columns))
    if min(len(np.unique(made.parameters)), len(np.unique(made.tokens.round(-4)))) < LEAST_VALUES:
        return None
    return made


def _kind(run: Run) -> tuple:
    """All of a run's config that is no matter of its size."""
    groups = ("model.", "data.", "optimizer.name", "optimizer.schedule")
    return tuple(
        (key, str(value))
        for key, value in sorted(run.config.items())
        if key.startswith(groups) and key not in SHAPE
    )


def predict(values: np.ndarray, parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """L(N, D) of five numbers."""
    E, A, a, B, b = values
    return E + A / parameters**a + B / tokens**b


def fit(seen: Points, num_draws: int = DRAWS) -> Law:
    """The law that fits the points best, and as many from points drawn anew as are wanted."""
    best = min((_search(seen, start) for start in _starts(seen)), key=lambda found: found.cost)
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(num_draws):
        drawn = seen.where(generator.integers(0, len(seen.runs), len(seen.runs)))
        draws.append(_values(_search(drawn, best.x).x))
    sizes = np.unique(seen.parameters)
    pairs = seen.flops / (seen.parameters * seen.tokens)
    costs = np.array([pairs[seen.parameters == size].mean() for size in sizes])
    return Law(_values(best.x), np.array(draws), sizes, costs)


def _search(seen: Points, start: np.ndarray):
    """Least squares from a start, over logs of E, A and B and the two exponents."""
    from scipy.optimize import least_squares

    def misses(x: np.ndarray) -> np.ndarray:
        return np.log(predict(_values(x), seen.parameters, seen.tokens)) - np.log(seen.loss)

    bounds = np.array([(-5, 2), (-5, 25), (0.01, 3), (-5, 25), (0.01, 3)], float).T
    start = np.clip(start, bounds[0] + 1e-6, bounds[1] - 1e-6)
    return least_squares(misses, start, bounds=bounds, loss="huber", f_scale=HUBER)


def _values(x: np.ndarray) -> np.ndarray:
    log_E, log_A, a, log_B, b = x
    return np.array([np.exp(log_E), np.exp(log_A), a, np.exp(log_B), b])


def _starts(seen: Points) -> list[np.ndarray]:
    """Where to search from: a share of the lowest loss as E, and two falls of some steepness."""
    least, spread = seen.loss.min(), np.ptp(seen.loss) + 0.1
    return [
        np.array(
            [
                np.log(share * least),
                np.log(spread * seen.parameters.min() ** a),
                a,
                np.log(spread * seen.tokens.min() ** b),
                b,
            ]
        )
        for share in (0.3, 0.6, 0.9)
        for a in (0.2, 0.5)
        for b in (0.2, 0.5, 1.0)
    ]


def held_out(seen: Points) -> tuple[Law, Points] | None:
    """A law fitted without the largest size, and the runs of that size; None without enough."""
    is_largest = seen.parameters == seen.parameters.max()
    rest = seen.where(~is_largest)
    if len(rest.runs) < LEAST_RUNS or len(np.unique(rest.parameters)) < LEAST_VALUES:
        return None
    return fit(rest, num_draws=0), seen.where(is_largest)


def next_rung(seen: Points) -> tuple[str, float] | None:
    """Name and parameters of the rung above the highest, if the runs are rungs of the ladder.

    All are one kind of model: the rung is of that kind, too.
    """
    shapes = [
        (number(run.config.get("model.num_layers")), number(run.config.get("model.embed_dim")))
        for run in seen.runs
    ]
    if any(not layers or width != sizes.HEAD_DIM * layers for layers, width in shapes):
        return None
    rung = int(max(layers for layers, _ in shapes)) + 1
    if rung > sizes.LARGEST_RUNG:
        return None
    model = gpt2.get_config().model
    kept = {key: seen.runs[0].config.get(f"model.{key}", value) for key, value in model.items()}
    return f"ladder-{rung}", float(sizes.rung_parameters(rung, ConfigDict(kept)).rest)


def statements(seen: Points, law: Law) -> list[str]:
    """What the law says, a sentence each."""
    numbers = ", ".join(
        f"{name} = {value:.3g} ({low:.3g} to {high:.3g})"
        for name, (value, low, high) in law.intervals.items()
    )
    misses = np.abs(law.loss(seen.parameters, seen.tokens) / seen.loss - 1)
    said = [
        f"L(N, D) = E + A/N^a + B/D^b fits {len(seen.runs)} runs within "
        f"{100 * misses.max():.1f} %, on average {100 * misses.mean():.1f} %: {numbers}; in "
        "brackets 95 % by bootstrap."
    ]
    for flops in (seen.flops.max(), 10 * seen.flops.max()):
        size = law.best_size(flops)
        cost = float(law.flops_per_token(size))
        tokens = flops / cost
        is_near = _is_near(size, seen.parameters) and _is_near(tokens, seen.tokens)
        said.append(
            f"{flops:.1e} FLOPs are best spent on {size:,.0f} parameters outside of embeddings and "
            f"{tokens:,.0f} tokens: {law.loss(size, tokens):.3f} (at {cost / size:.1f} FLOPs for "
            f"each parameter and token{'' if is_near else '; far from all that was trained'})."
        )
    if tested := held_out(seen):
        earlier, largest = tested
        expected = earlier.loss(largest.parameters, largest.tokens)
        errors = "; ".join(
            f"{round_tokens(tokens):,.0f} tokens: {guess:.3f} predicted, {loss:.3f} measured, "
            f"{100 * (guess / loss - 1):+.1f} %"
            for tokens, guess, loss in sorted(
                zip(largest.tokens, expected, largest.loss, strict=True)
            )
        )
        said.append(
            f"From the smaller ones alone, {largest.parameters[0]:,.0f} parameters: {errors}."
        )
    if rung := next_rung(seen):
        name, size = rung
        expected = "; ".join(
            f"{tokens:,.0f} tokens: {law.loss(size, tokens):.3f} ({{:.3f}} to {{:.3f}})".format(
                *law.interval(size, tokens)
            )
            for tokens in sorted({round_tokens(tokens) for tokens in seen.tokens})
        )
        said.append(f"Predicted for {name}, {size:,.0f} parameters: {expected}.")
    return said


def _is_near(value: float, values: np.ndarray) -> bool:
    return bool(values.min() / 2 <= value <= 2 * values.max())


def round_tokens(tokens: float) -> float:
    """The tokens that a run was given, without what batches leave over."""
    return float(f"{tokens:.3g}")
