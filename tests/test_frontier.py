"""Frontiers: curves whose crossing is known, in words and in charts."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from experiments import default
from reporting import frontier, frontier_charts, page, sweep_charts, sweeps
from reporting.runs import Run
from tests import browser
from tests.forked import run
from tests.test_sweep_report import rows_of, write_sweep
from tests.vega_lite import assert_valid

BUDGETS = (1e11, 1e12, 1e13)
# Losses fall by a constant per factor of ten; the later stage starts higher and falls faster.
KNOWN = {1: (2.5, 0.0), 2: (2.4, 0.02), 3: (2.5, 0.1), 4: (2.7, 0.25)}


def loss_of(stage, budget):
    start, slope = KNOWN[stage]
    return start - slope * math.log10(budget / BUDGETS[0])


def crossing_of(one, other):
    """The budget at which two of the known lines meet."""
    (a, p), (b, q) = KNOWN[one], KNOWN[other]
    return BUDGETS[0] * 10 ** ((b - a) / (q - p))


def trained(noise=0.0, seeds=3, optimizers=("adamw", "muon"), unit="flops", stages=KNOWN):
    """Returns runs of the known curves; stage 1 has one budget, and AdamW alone."""
    rng = np.random.default_rng(0)
    runs = []
    for optimizer in optimizers:
        for stage in stages:
            if stage == 1 and optimizer != "adamw":
                continue
            for budget in BUDGETS if stage > 1 else (6e9,):
                for seed in range(seeds):
                    of_flops = unit == "flops"
                    loss = loss_of(stage, budget) + noise * rng.normal()
                    line = {
                        "step": 1,
                        "train_flops": budget * 0.997 if of_flops else 1e9 * budget * stage,
                        "tokens_seen": budget * (1 if of_flops else 1.0004),
                        "val/loss": loss,
                    }
                    config = {
                        "tracking.stage": stage,
                        "model.name": default.LADDER[stage - 1],
                        "optimizer.name": optimizer,
                        "train.flops": budget if of_flops and stage > 1 else 0.0,
                    }
                    runs.append(
                        Run(
                            name=f"{len(runs):03}",
                            folder=Path("compared") / f"{len(runs):03}",
                            config=config,
                            environment={},
                            summary={"status": "done"},
                            metrics=[line],
                            samples=[],
                            vocab_size=65,
                            sweep_id="compared",
                            swept={
                                "config": f"{stage} {budget:g} {optimizer}",
                                "config.seed": seed,
                            },
                        )
                    )
    return runs


def pair_of(one, later):
    return next(pair for pair in one.pairs if pair.later.stage == later)


def drawn(rng, seeds=(3, 3), noise=0.01):
    """The pair of stages 3 and 4 with so many seeds each."""
    curves = [
        frontier.Curve(
            stage,
            default.LADDER[stage - 1],
            np.array(BUDGETS),
            [[loss_of(stage, x) + noise * rng.normal() for _ in range(count)] for x in BUDGETS],
        )
        for stage, count in zip((3, 4), seeds, strict=True)
    ]
    return frontier.Pair(*curves, np.array(BUDGETS))


def said(runs):
    return frontier.statements(frontier.frontiers(runs))


def without(runs, stage, budget):
    return [x for x in runs if (x.stage, x.config["train.flops"]) != (stage, budget)]


def test_a_known_crossing_is_found():
    found = frontier.frontiers(trained())
    assert [one.optimizer for one in found] == ["adamw", "muon"]
    for one in found:
        assert [curve.stage for curve in one.curves] == [1, 2, 3, 4]
        first, second, third = map(frontier.crossing, one.pairs)
        assert first.budget == 0
        assert second.budget == pytest.approx(crossing_of(2, 3), rel=1e-6)
        assert third.budget == pytest.approx(crossing_of(3, 4), rel=1e-6)
        # Without noise the interval is a point.
        assert second.interval == pytest.approx((second.budget, second.budget))


def test_the_interval_of_a_crossing_grows_with_the_noise():
    widths = []
    for noise in (0.002, 0.01):
        low, high = frontier.crossing(drawn(np.random.default_rng(2), noise=noise)).interval
        assert low < crossing_of(3, 4) < high
        widths.append(math.log(high / low))
    assert 3 < widths[1] / widths[0] < 8


@pytest.mark.parametrize("seeds", [(3, 3), (2, 6), (6, 2)])
def test_the_interval_covers_as_often_as_it_says(seeds):
    """Of 200 repetitions with other noise, about 95 % of the intervals hold the crossing."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        low, high = frontier.crossing(drawn(rng, seeds)).interval
        held += low <= crossing_of(3, 4) <= high
    assert 180 <= held <= 199


def test_a_stage_that_is_always_lower_and_one_that_never_is():
    lower = "self_attention has a lower loss than bigram at every budget from 1e11 FLOPs on"
    assert lower in " ".join(said(trained()))
    runs = without(without(trained(stages=(3, 4)), 3, 1e13), 4, 1e13)
    assert said(runs) == []  # Two budgets make no curve.
    late = [replace(one, name=f"late {one.name}", config=dict(one.config)) for one in runs]
    for one in late:
        one.config["train.flops"] *= 2 if one.config["train.flops"] == 1e11 else 1
    sentence = said([*runs, *late])[0]
    assert (
        "transformer_decoder has nowhere a lower loss than multi_head_attention, up to 1e12 FLOPs"
        in sentence
    )


def test_a_stage_that_falls_behind_again_is_said_to_be_lower_only_where_it_is():
    budgets = np.array(BUDGETS)
    curves = [
        frontier.Curve(stage, name, budgets, [[loss] * 3 for loss in losses])
        for stage, name, losses in ((3, "heads", (2.2, 2.0, 1.8)), (4, "blocks", (2.3, 1.7, 1.9)))
    ]
    sentence = frontier.statements([frontier.Frontier("adamw", "FLOPs", curves)])[0]
    assert "blocks has a lower loss than heads only at 1e12 FLOPs" in sentence


def test_a_budget_past_a_stage_s_last_is_compared_with_that_and_says_so():
    one = frontier.frontiers(without(trained(), 2, 1e13))[0]
    assert one.curves[1].at(1e13) == pytest.approx([loss_of(2, 1e12)] * 3)
    difference = frontier.differences(one)["multi_head_attention", 1e13]
    assert difference.mean == pytest.approx(loss_of(3, 1e13) - loss_of(2, 1e12))
    assert "at 1e13 (self_attention as at 1e12)" in frontier.statements([one])[1]


def test_a_budget_that_a_stage_lacks_in_between_is_not_compared():
    one = frontier.frontiers(without(trained(), 3, 1e12))[0]
    assert list(pair_of(one, 4).budgets) == [1e11, 1e13]
    assert "1e12" not in frontier.statements([one])[2]


def test_settings_are_not_taken_for_seeds_and_other_parameters_not_for_budgets():
    mixed = trained(stages=(3, 4))
    mixed[0].config["optimizer.learning_rate"] = 0.1
    assert frontier.frontiers(mixed) == []
    swept = [
        replace(run, swept={**run.swept, "config.model.context_length": 8 * (i % 2 + 1)})
        for i, run in enumerate(trained(stages=(3, 4)))
    ]
    assert sweeps.Sweep("x", "val/loss", "minimize", swept, {}).frontiers == []


def test_stages_without_common_budgets_make_no_frontier():
    runs = trained(stages=(3, 4))
    for one in runs:
        one.config["train.flops"] *= 7 if one.stage == 3 else 1
    assert frontier.frontiers(runs) == []
    assert frontier.frontiers([]) == []


def test_every_difference_names_its_budget_and_whether_it_is_significant():
    sentences = said(trained(0.003, optimizers=["adamw"]))
    assert len(sentences) == 3
    for budget in ("1e11", "1e12", "1e13"):
        assert all(f" at {budget}" in sentence for sentence in sentences)
    assert "(not significant)" in said(trained(0.05, optimizers=["adamw"], stages=(2, 3)))[0]


def test_one_seed_draws_curves_and_tests_nothing():
    (one,) = frontier.frontiers(trained(seeds=1, optimizers=["adamw"]))
    assert frontier.crossing(pair_of(one, 4)).interval is None
    sentence = frontier.statements([one])[2]
    assert "one seed allows no test" in sentence and "interval" not in sentence
    assert frontier_charts.charts([one], 65)


def test_tokens_are_budgets_where_no_flops_were_given():
    one = frontier.frontiers(trained(unit="tokens"))[0]
    assert one.unit == "tokens"
    np.testing.assert_allclose(one.budgets, BUDGETS, rtol=0.01)


@pytest.mark.slow
def test_the_charts_draw_every_point_and_the_gains_at_every_budget():
    runs = trained(0.01)
    sweep = sweeps.Sweep("compared", "val/loss", "minimize", runs, {})
    specs = sweep_charts.charts(sweep)
    assert_valid(specs.values())
    assert len(specs) == 4
    curves, gains = list(specs.values())[:2]
    _, _, dots, floor, rings, _ = rows_of(curves)
    assert len(dots) == 1 + 3 * len(BUDGETS) and {row["seeds"] for row in dots} == {3}
    assert [row["x"] for row in floor] == [6e9, 1e13]  # The first stage's.
    assert [row["text"].partition(" ")[0] for row in rings] == list(default.LADDER[2:4])
    rows = rows_of(gains)[0]
    assert len(rows) == 4 * len(BUDGETS)
    for place in range(len(BUDGETS)):
        of_place = [row for row in rows if row["place"] == place]
        assert of_place[0]["from"] == pytest.approx(math.log(65))
        # Each bar begins where the one above ends.
        for above, below in pairwise(of_place):
            assert above["to"] == below["from"]
    assert gains["params"][0]["bind"]["max"] == len(BUDGETS) - 1
    html = page.render(runs, [(sweep, specs)], [])
    assert "lower from" in html


@pytest.mark.long
def test_the_command_tells_the_crossings(tmp_path):
    points = [
        {
            "config": f"experiments/{default.LADDER[stage - 1]}.py",
            "config.train.flops": budget,
            "config.seed": seed,
            "stage": stage,
            "value": loss_of(stage, budget) + 0.001 * seed,
        }
        for stage in (3, 4)
        for budget in BUDGETS
        for seed in range(3)
    ]
    folder = write_sweep(tmp_path / "s", points)
    told = run("report.py", folder, f"--output={tmp_path}/page.html")
    assert told.returncode == 0, told.stderr
    assert (
        f"than multi_head_attention from {frontier.show(crossing_of(3, 4))} FLOPs on" in told.stdout
    )
    assert "lower from" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
class TestSlider:
    """The page in a browser; `open_file` sees that it reports no error."""

    __test__ = browser.is_wanted()

    @pytest.mark.long
    def test_it_moves_the_gains_to_another_budget(self, tmp_path):
        runs = trained(0.01, optimizers=["adamw"])
        for run_ in runs:  # The page draws them, too.
            run_.metrics[0].update({"val/bits_per_byte": 3.0, "seconds": 1.0})
        sweep = sweeps.Sweep("compared", "val/loss", "minimize", runs, {})
        path = tmp_path / "page.html"
        path.write_text(page.render(runs, [(sweep, sweep_charts.charts(sweep))], []))
        with browser.launch() as chromium, browser.open_file(chromium, path) as opened:
            slider = opened.locator("section.sweep input[type=range]")
            gains = opened.locator("section.sweep .chart").nth(1)
            assert "1e13 FLOPs" in gains.inner_text()
            slider.evaluate("(x) => { x.value = 0; x.dispatchEvent(new Event('input')); }")
            gains.get_by_text("1e11 FLOPs").wait_for()
            assert "1e13 FLOPs" not in gains.inner_text()
