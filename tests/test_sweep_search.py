"""Tests of search, distributions and early termination, against W&B's own engine where it can."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from runtime.errors import UserError
from sweep_engine import distributions, search, sweep_file
from sweep_engine.hyperband import Hyperband
from tests import sweep_cases

ANSWERS = json.loads((Path(__file__).parent / "fixtures/wandb_engine.json").read_text())


def sweep_of(**content):
    return sweep_file.parse({"program": "main.py", "method": "random", **content})


@pytest.mark.parametrize(
    ("given", "values"),
    zip(sweep_cases.PARAMETERS, ANSWERS["quantiles"], strict=True),
    ids=str,
)
def test_a_distribution_has_the_engines_values(given, values):
    parameter = distributions.parse("x", given)
    for share, value in zip(sweep_cases.SHARES, values, strict=True):
        ours = parameter.inverse_cdf(share)
        assert type(ours) is type(value)
        assert ours == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("parameters", "points"), zip(sweep_cases.GRIDS, ANSWERS["grids"], strict=True), ids=str
)
def test_a_grid_has_the_engines_points_in_its_order(parameters, points):
    sweep = sweep_of(method="grid", parameters=parameters)
    count = search.num_points(sweep)
    assert [search.grid_point(sweep, number + 1) for number in range(count)] == points
    with pytest.raises(UserError, match=f"no run {count + 1}"):
        search.grid_point(sweep, count + 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(ANSWERS["stopped"])))
def test_hyperband_stops_the_runs_that_the_engine_stops(number):
    case = sweep_cases.hyperband_cases()[number]
    metric = {"name": "val/loss", "goal": case["goal"]}
    sweep = sweep_of(
        metric=metric,
        early_terminate=case["early_terminate"],
        parameters={"x": {"value": 1}},
    )
    histories = {
        run["name"]: [sweep.metric.cost(loss) for loss in run["history"] if loss is not None]
        for run in case["runs"]
    }
    running = [run["name"] for run in case["runs"] if run["state"] == "running"]
    stopped = sweep.early_terminate.runs_to_stop(histories, running)
    assert sorted(stopped) == ANSWERS["stopped"][number]


def test_hyperband_judges_at_its_bands():
    assert Hyperband(max_iter=27, s=2).bands() == [3, 9]
    assert Hyperband(max_iter=4, s=5, eta=2).bands() == [1, 2]
    assert Hyperband(min_iter=2, eta=4).bands()[:3] == [2, 8, 32]


def test_the_seed_varies_slowest_in_a_grid():
    sweep = sweep_of(
        method="grid",
        parameters={"config.seed": {"values": [0, 1]}, "config": {"values": ["a", "b"]}},
    )
    points = [search.grid_point(sweep, number) for number in (1, 2, 3, 4)]
    assert [(p["config"], p["config.seed"]) for p in points] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
    ]


def test_random_draws_follow_their_distribution():
    sweep = sweep_of(
        parameters={
            "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
            "word": {"values": ["a", "b"], "probabilities": [0.25, 0.75]},
            "n": {"min": 1, "max": 4},
        }
    )
    draws = [
        search.values_at(sweep, search.propose(sweep, 1, number, [])) for number in range(1, 2001)
    ]
    logs = [math.log10(draw["lr"]) for draw in draws]
    assert scipy.stats.kstest(logs, scipy.stats.uniform(-4, 3).cdf).pvalue > 0.01
    words = Counter(draw["word"] for draw in draws)
    assert scipy.stats.binomtest(words["a"], len(draws), 0.25).pvalue > 0.01
    numbers = Counter(draw["n"] for draw in draws)
    assert scipy.stats.chisquare([numbers[n] for n in (1, 2, 3, 4)]).pvalue > 0.01
    assert abs(np.corrcoef(logs, [draw["n"] for draw in draws])[0, 1]) < 0.06


BAYES = {
    "method": "bayes",
    "metric": {"name": "val/loss"},
    "parameters": {
        "x": {"min": -4.0, "max": 4.0},
        "word": {"values": ["a", "b", "c"]},
        "fixed": {"value": 5},
    },
}


def cost_of(values):
    """Returns a cost that is lowest at x = 1 with the word b."""
    return (values["x"] - 1) ** 2 + {"a": 2.0, "b": 0.0, "c": 1.0}[values["word"]]


def searched(sweep, seed, count):
    """Returns the values that a search proposes when it is given the cost of each."""
    trials, made = [], []
    for number in range(1, count + 1):
        point = search.propose(sweep, seed, number, trials)
        made.append(search.values_at(sweep, point))
        trials.append(search.Trial(point, cost_of(made[-1])))
    return made


def test_a_bayesian_search_with_a_seed_repeats_exactly():
    sweep = sweep_of(**BAYES)
    assert searched(sweep, 3, 25) == searched(sweep, 3, 25)
    assert searched(sweep, 3, 25) != searched(sweep, 4, 25)


def test_a_bayesian_search_finds_low_costs():
    """Over four seeds, the last ten of thirty points cost less than half of random ones."""
    by_method = {
        method: np.mean(
            [
                cost_of(values)
                for seed in range(4)
                for values in searched(sweep_of(**{**BAYES, "method": method}), seed, 30)[-10:]
            ]
        )
        for method in ("bayes", "random")
    }
    assert by_method["bayes"] < 0.5 * by_method["random"], by_method


def test_a_bayesian_search_avoids_pending_points():
    sweep = sweep_of(**BAYES)
    trials = [search.Trial({"x": x, "word": 1}, (x - 0.6) ** 2) for x in np.linspace(0, 1, 20)]
    alone = search.propose(sweep, 0, 21, trials)
    pending = [search.Trial({**alone, "x": alone["x"] + d}, None) for d in (-0.01, 0, 0.01)] * 5
    beside = search.propose(sweep, 0, 21, [*trials, *pending])
    assert beside != alone


def test_points_survive_the_journal():
    """JSON keeps indices as integers and numbers in [0, 1] as floats."""
    sweep = sweep_of(**BAYES)
    for number in range(1, 20):
        point = search.propose(sweep, 0, number, [])
        again = json.loads(json.dumps(point))
        assert search.values_at(sweep, again) == search.values_at(sweep, point)
