"""Frontiers: curves whose crossing is known, in words and in charts."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from experiments import default
from reporting import frontier, frontier_charts, page, sweep_charts, sweeps
from reporting.runs import Run
from tests import browser
from tests.command import run
from tests.test_sweep_report import rows_of, write_sweep

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


def test_a_known_crossing_is_found():
    found = frontier.frontiers(trained())
    assert [one.optimizer for one in found] == ["adamw", "muon"]
    for one in found:
        assert [curve.stage for curve in one.curves] == [1, 2, 3, 4]
        at = frontier.crossings(one)
        assert at[0].budget == 0
        assert at[1].budget == pytest.approx(crossing_of(2, 3), rel=1e-6)
        assert at[2].budget == pytest.approx(crossing_of(3, 4), rel=1e-6)
        # Without noise the interval is a point.
        assert at[1].low == pytest.approx(at[1].high)


def test_the_interval_of_a_crossing_contains_it_and_grows_with_the_noise():
    widths = []
    for noise in (0.002, 0.01):
        (one,) = frontier.frontiers(trained(noise, optimizers=["adamw"]))
        crossing = frontier.crossings(one)[2]
        assert crossing.low < crossing_of(3, 4) < crossing.high
        widths.append(math.log(crossing.high / crossing.low))
    assert widths[0] < widths[1]


def test_the_interval_covers_in_nineteen_of_twenty_repetitions():
    """Of 200 sweeps with other noise, at least 90 % of the intervals hold the true crossing."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        curves = []
        for stage in (3, 4):
            losses = [
                [loss_of(stage, budget) + 0.01 * rng.normal() for _ in range(3)]
                for budget in BUDGETS
            ]
            curves.append(frontier.Curve(stage, str(stage), np.array(BUDGETS), losses))
        (crossing,) = frontier.crossings(frontier.Frontier("adamw", "FLOPs", curves))
        held += crossing.low <= crossing_of(3, 4) <= crossing.high
    assert held >= 180


def test_a_stage_that_never_pays_and_one_that_always_does():
    text = " ".join(frontier.statements(frontier.frontiers(trained())))
    assert "self_attention pays at 1e11 FLOPs already against bigram" in text
    three = [1.5e11, *BUDGETS[:2]]
    curves = [
        frontier.Curve(s, name, np.array(three), [[loss_of(s, x)] * 3 for x in three])
        for s, name in ((2, "self_attention"), (4, "transformer_decoder"))
    ]
    text = frontier.statements([frontier.Frontier("muon", "FLOPs", curves)])[0]
    assert "transformer_decoder does not pay up to 1e12 FLOPs against self_attention" in text
    assert "With muon" in text


def test_a_stage_at_its_floor_is_compared_by_its_last_losses():
    runs = [
        x for x in trained() if (x.config["tracking.stage"], x.config["train.flops"]) != (2, 1e13)
    ]
    one = frontier.frontiers(runs)[0]
    assert one.curves[1].at(1e13) == pytest.approx([loss_of(2, 1e12)] * 3)
    difference = frontier.differences(one)["multi_head_attention", 1e13]
    assert difference.mean == pytest.approx(loss_of(3, 1e13) - loss_of(2, 1e12))


def test_every_difference_names_its_budget_and_whether_it_is_significant():
    (one,) = frontier.frontiers(trained(0.003, optimizers=["adamw"]))
    sentences = frontier.statements([one])
    assert len(sentences) == 3
    for budget in ("1e11", "1e12", "1e13"):
        assert all(f" at {budget}" in sentence for sentence in sentences)
    near = trained(0.05, optimizers=["adamw"], stages=(2, 3))
    assert "(not significant)" in frontier.statements(frontier.frontiers(near))[0]


def test_two_budgets_make_no_curve():
    runs = [run for run in trained(stages=(2, 4)) if run.config["train.flops"] != 1e13]
    assert frontier.frontiers(runs) == []


def test_one_seed_draws_curves_and_tests_nothing():
    (one,) = frontier.frontiers(trained(seeds=1, optimizers=["adamw"]))
    assert "one seed allows no test" in frontier.statements([one])[0]
    assert frontier_charts.charts([one], 65)


def test_tokens_are_budgets_where_no_flops_were_given():
    one = frontier.frontiers(trained(unit="tokens"))[0]
    assert one.unit == "tokens"
    np.testing.assert_allclose(one.budgets, BUDGETS)


def test_the_charts_draw_every_point_and_the_stairs_of_every_budget():
    runs = trained(0.01)
    sweep = sweeps.Sweep("compared", "val/loss", "minimize", runs, {})
    specs = sweep_charts.charts(sweep)
    assert len(specs) == 4
    curves, stairs = list(specs.values())[:2]
    _, _, dots, floor, rings, _ = rows_of(curves)
    assert len(dots) == 1 + 3 * len(BUDGETS) and {row["seeds"] for row in dots} == {3}
    assert [row["x"] for row in floor] == [6e9, 1e13]  # The first stage's.
    assert [row["text"].partition(" ")[0] for row in rings] == list(default.LADDER[2:4])
    rows = rows_of(stairs)[0]
    assert len(rows) == 4 * len(BUDGETS)
    for place in range(len(BUDGETS)):
        of_place = [row for row in rows if row["place"] == place]
        assert of_place[0]["from"] == pytest.approx(math.log(65))
        # Each bar begins where the one above ends.
        for above, below in pairwise(of_place):
            assert above["to"] == below["from"]
    assert stairs["params"][0]["bind"]["max"] == len(BUDGETS) - 1
    html = page.render(runs, [(sweep, specs)], [])
    assert "pays from" in html


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
    assert f"pays from {frontier.show(crossing_of(3, 4))} FLOPs on" in told.stdout
    assert "pays from" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
class TestSlider:
    """The page in a browser; `open_file` sees that it reports no error."""

    __test__ = browser.is_wanted()

    def test_it_moves_the_stairs_to_another_budget(self, tmp_path):
        runs = trained(0.01, optimizers=["adamw"])
        for run_ in runs:  # The page draws them, too.
            run_.metrics[0].update({"val/bits_per_byte": 3.0, "seconds": 1.0})
        sweep = sweeps.Sweep("compared", "val/loss", "minimize", runs, {})
        path = tmp_path / "page.html"
        path.write_text(page.render(runs, [(sweep, sweep_charts.charts(sweep))], []))
        with browser.launch() as chromium, browser.open_file(chromium, path) as opened:
            slider = opened.locator("section.sweep input[type=range]")
            stairs = opened.locator("section.sweep .chart").nth(1)
            assert "1e13 FLOPs" in stairs.inner_text()
            slider.evaluate("(x) => { x.value = 0; x.dispatchEvent(new Event('input')); }")
            stairs.get_by_text("1e11 FLOPs").wait_for(timeout=5000)
            assert "1e13 FLOPs" not in stairs.inner_text()
