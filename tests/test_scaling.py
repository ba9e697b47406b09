"""The scaling law: recovered where it is known, and its predictions in words and charts."""

from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from experiments import gpt2, sizes
from reporting import page, scaling, scaling_charts, sweep_charts, sweeps
from reporting.runs import Run
from run_folder import flatten
from tests.test_sweep_report import rows_of
from tests.vega_lite import assert_valid

# E, A, a, B, b, near those of small character-level models.
KNOWN = np.array([1.1, 12.0, 0.35, 600.0, 0.5])
TOKENS = (250_000, 500_000, 1_250_000, 2_000_000)


def ladder(rungs, noise=0.0, values=KNOWN):
    """Returns runs of ladder sizes whose losses follow the known law."""
    rng = np.random.default_rng(0)
    runs = []
    for rung in rungs:
        config = gpt2.get_config(f"ladder-{rung}")
        size = sizes.count_parameters(config.model, 65).rest
        for tokens in TOKENS:
            seen = tokens - 32 * rung  # The last batch does not fit.
            loss = float(scaling.predict(values, np.array(size), np.array(seen)))
            loss *= 1 + noise * rng.normal()
            preset = f"experiments/gpt2.py:ladder-{rung}-{tokens / 1e6:g}M"
            line = {
                "step": 1,
                "tokens_seen": seen,
                "train_flops": 6.5 * size * seen,
                "seconds": 1.0,
                "val/loss": loss,
                "val/bits_per_byte": loss / np.log(2),
            }
            runs.append(
                Run(
                    name=f"{len(runs):03}",
                    folder=Path("scaling") / f"{len(runs):03}",
                    config=flatten(config.to_dict()),
                    environment={},
                    summary={"num_params_without_embeddings": size, "status": "done"},
                    metrics=[line],
                    samples=[],
                    vocab_size=65,
                    sweep_id="scaling",
                    swept={"config": preset},
                )
            )
    return runs


def changed(runs, **values):
    """Returns the runs with other settings."""
    return [replace(run, config={**run.config, **values}) for run in runs]


@pytest.mark.slow
def test_a_known_law_is_recovered():
    seen = scaling.points(ladder(range(1, 6)))
    law = scaling.fit(seen)
    np.testing.assert_allclose(law.loss(seen.parameters, seen.tokens), seen.loss, rtol=2e-4)
    np.testing.assert_allclose(law.coefficients[[0, 2, 4]], KNOWN[[0, 2, 4]], rtol=0.05)
    # Extrapolated, too.
    np.testing.assert_allclose(
        law.loss(1e7, 1e7), scaling.predict(KNOWN, np.array(1e7), np.array(1e7)), rtol=5e-3
    )


@pytest.mark.long
def test_intervals_hold_the_truth_and_grow_with_the_noise():
    widths = []
    for noise in (0.001, 0.01):
        law = scaling.fit(scaling.points(ladder(range(1, 6), noise)))
        low, high = law.interval(3e6, 2e6)
        widths.append(high - low)
        assert low - 0.01 < scaling.predict(KNOWN, np.array(3e6), np.array(2e6)) < high + 0.01
        for value, least, most in law.intervals.values():
            assert least <= value * 1.2 and value <= most * 1.2
    assert widths[1] > 2 * widths[0]


def test_the_best_size_is_the_lowest_point_of_the_law():
    _, A, a, B, b = KNOWN
    sizes, alike = np.array([1e4, 1e5, 1e6]), np.array([6.5, 6.5, 6.5])
    for costs in (alike, np.array([9.2, 7.4, 6.5])):
        law = scaling.Law(KNOWN, KNOWN[None], sizes, costs)
        for flops in (1e10, 1e12, 1e15):
            steps = np.geomspace(1e3, 1e9, 20_001)
            losses = law.loss(steps, flops / law.flops_per_token(steps))
            assert law.best_size(flops) == pytest.approx(steps[losses.argmin()], rel=2e-3)
            if costs is alike:  # Equation 4 of Hoffmann et al. (2022).
                pairs = flops / 6.5
                best = (a * A / (b * B)) ** (1 / (a + b)) * pairs ** (b / (a + b))
                assert law.best_size(flops) == pytest.approx(best, rel=1e-3)


@pytest.mark.slow
def test_the_cost_of_a_token_is_that_of_the_runs():
    seen = scaling.points(ladder(range(1, 5)))
    law = scaling.fit(seen, num_bootstrap=0)
    np.testing.assert_allclose(law.flops_per_token(seen.parameters), seen.flops / seen.tokens)
    assert law.flops_per_token(1e9) == pytest.approx(6.5e9)


@pytest.mark.slow
def test_the_largest_size_is_predicted_from_the_others():
    seen = scaling.points(ladder(range(1, 6), noise=0.001))
    law, largest = scaling.held_out(seen)
    assert set(largest.parameters) == {max(seen.parameters)}
    np.testing.assert_allclose(
        law.loss(largest.parameters, largest.tokens), largest.loss, rtol=0.02
    )
    # The fit does not use them: other losses there change nothing.
    worse = scaling.Points(
        seen.runs,
        seen.parameters,
        seen.tokens,
        seen.flops,
        np.where(seen.parameters == max(seen.parameters), 9.0, seen.loss),
    )
    np.testing.assert_array_equal(scaling.held_out(worse)[0].coefficients, law.coefficients)


@pytest.mark.long
def test_statements():
    runs = ladder(range(1, 5))
    sweep = sweeps.Sweep("scaling", "val/loss", "minimize", runs, {})
    law, best, *_, tested, predicted = sweeps.statements(sweep)
    assert law.startswith("L(N, D) = E + A/N^a + B/D^b fits 16 runs within 0.")
    assert "E = 1.1 (" in law
    assert best.startswith("The best size for ")
    assert "A fit to the smaller sizes alone, at 793,344 parameters: 250,000 tokens:" in tested
    truth = scaling.predict(KNOWN, np.array(1_546_720), np.array(2e6))
    assert sizes.rung_parameters(5, gpt2.get_config().model).rest == 1_546_720
    assert predicted.startswith("Prediction for ladder-5, 1,546,720 parameters: 250,000 tokens:")
    assert f"2,000,000 tokens: {truth:.3f} (" in predicted
    assert tested.count("tokens:") == predicted.count("tokens:") == len(TOKENS)


@pytest.mark.long
def test_a_best_size_outside_of_the_trained_range_is_marked():
    for rungs, values, is_far in (
        (range(1, 5), KNOWN * [1, 5, 1, 1, 1], False),
        (range(1, 5), KNOWN, True),  # Far more tokens than any run had.
    ):
        seen = scaling.points(ladder(rungs, values=values))
        _, best, *_ = scaling.statements(seen, scaling.fit(seen, num_bootstrap=5))
        assert best.endswith("; far outside of the trained range).") == is_far, best
    values = np.array([1e4, 1e6])
    near = {value: scaling.is_in_range(value, values) for value in (4e3, 6e3, 1e5, 1.9e6, 2.1e6)}
    assert list(near.values()) == [False, True, True, True, False]


@pytest.mark.long
def test_the_page_holds_the_charts():
    runs = ladder(range(1, 6), noise=0.002)
    seen = scaling.points(runs)
    made = scaling_charts.charts(seen, scaling.fit(seen))
    assert_valid(made.values())
    assert len(made) == 4
    for chart in made.values():
        lines, dots = rows_of(chart)
        assert all(np.isfinite(row["loss"]) and row["x"] > 0 for row in lines)
        assert dots
    found = [(sweep, sweep_charts.charts(sweep)) for sweep in sweeps.find(runs)]
    text = unescape(page.render(runs, found, []))
    assert all(heading in text for heading in made)
    assert "Experiments compared" not in text


@pytest.mark.parametrize(
    "runs",
    [
        ladder([1, 2, 3])[:7],
        ladder([1, 2]),
        [run for run in ladder(range(1, 6)) if run.last("tokens_seen") < 600_000],
        [*ladder([1, 2]), *(replace(run, vocab_size=256) for run in ladder([3, 4]))],
        [replace(run, summary={}) for run in ladder(range(1, 6))],
        [*ladder([1, 2, 3]), *changed(ladder([4]), **{"model.activation": "swiglu"})],
        [*ladder([1, 2, 3]), *changed(ladder([4]), **{"optimizer.name": "lion"})],
        3 * [run for place, run in enumerate(ladder([1, 2, 3, 4])) if place % 5 == 0],
    ],
    ids=[
        "few runs",
        "two sizes",
        "two numbers of tokens",
        "two vocabularies",
        "sizes unknown",
        "two models",
        "two optimizers",
        "three seeds at one number of tokens for each size",
    ],
)
def test_too_little_for_a_law(runs):
    assert scaling.points(runs) is None


def test_other_shapes_have_no_next_rung():
    runs = ladder(range(1, 5))
    runs[0].config["model.embed_dim"] = 48
    assert scaling.next_rung(scaling.points(runs)) is None
    highest = changed(ladder(range(1, 4)), **{"model.num_layers": 64, "model.embed_dim": 2048})
    assert scaling.next_rung(scaling.points(highest)) is None


def test_the_next_rung_is_of_the_same_kind():
    runs = changed(ladder(range(1, 5)), **{"model.num_kv_heads": 1})
    _, size = scaling.next_rung(scaling.points(runs))
    expected = gpt2.get_config("ladder-5+grouped_queries").model
    assert size == sizes.count_parameters(expected, 65).rest
