"""report.py on a sweep: the best run, statistically significant differences, the charts."""

import json
import math
import re
import shlex
from itertools import combinations, pairwise, product
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats

import run_folder
from experiments import default
from reporting import figures, page, runs, statistics, sweep_charts, sweeps
from tests import browser
from tests.forked import run
from tests.test_report import write_run
from tests.vega_lite import assert_valid


def write_sweep(folder: Path, points: list[dict], metric: dict | None = None) -> Path:
    """Writes a sweep's folder. A point has flags, `value`, and maybe `stage`, outcome, status."""
    folder.mkdir(parents=True)
    if metric:
        (folder / "sweep.yaml").write_text(json.dumps({"metric": metric}))
    for number, point in enumerate(points, start=1):
        point = dict(point)
        value, stage = point.pop("value"), point.pop("stage", 5)
        outcome, status = point.pop("outcome", "finished"), point.pop("status", "done")
        name = f"{number:03}"
        config = {key.removeprefix("config."): x for key, x in point.items() if key != "config"}
        made = write_run(folder / name, stage, config=config, status=status)
        lines = list(run_folder.read_lines(made / run_folder.METRICS))
        lines[-1]["val/loss"] = value
        (made / run_folder.METRICS).write_text("".join(json.dumps(x) + "\n" for x in lines))
        run_folder.write_json(made / "sweep.json", {"sweep_id": "abcd1234", "parameters": point})
        flags = [f"--{key}={x}" for key, x in point.items()]
        words = ["main.py", *flags, f"--workdir={made}", "--config.checkpoint.resume=true"]
        environment = run_folder.read_json(made / run_folder.ENVIRONMENT)
        run_folder.write_json(made / run_folder.ENVIRONMENT, {**environment, "command": words})
        event = {"event": "ended", "run": name, "outcome": outcome, "value": value, "reason": ""}
        run_folder.append_line(folder / "runs.jsonl", event)
    return folder


def found(folder: Path) -> sweeps.Sweep:
    """Returns the one sweep in a folder."""
    (sweep,) = sweeps.find(runs.read_runs([folder])[0])
    return sweep


def two_stages(seeds=3, gap=0.5):
    """Returns points of two models whose values differ by `gap`."""
    rng = np.random.default_rng(0)
    return [
        {
            "config": f"experiments/{name}.py",
            "config.seed": seed,
            "stage": stage,
            "value": 2 - gap * (stage == 5) + rng.normal(0, 0.01),
        }
        for seed in range(seeds)
        for stage, name in ((4, "transformer_decoder"), (5, "gpt2"))
    ]


def test_the_best_run_and_its_command(tmp_path):
    points = [{"config": "experiments/gpt2.py", "config.seed": 1, "value": v} for v in (2, 1, 3)]
    sweep = found(write_sweep(tmp_path / "s", points))
    assert (sweep.best.name, sweep.value(sweep.best)) == ("002", 1)
    command = sweeps.command(sweep.best)
    assert command == "python main.py --config=experiments/gpt2.py --config.seed=1"
    assert shlex.split(command)[1:] == sweep.best.environment["command"][:3]


def test_the_metric_and_goal_are_the_sweeps(tmp_path):
    metric = {"name": "train/grad_norm", "goal": "maximize"}
    points = [{"config.seed": seed, "value": 1} for seed in range(3)]
    folder = write_sweep(tmp_path / "s", points, metric)
    lines = [json.loads(x) for x in (folder / "002/metrics.jsonl").read_text().splitlines()]
    lines[-1]["train/grad_norm"] = 9.0
    (folder / "002/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    sweep = found(folder)
    assert (sweep.metric, sweep.best.name) == ("train/grad_norm", "002")


def test_the_title_is_the_question_of_the_sweep(tmp_path):
    folder = write_sweep(tmp_path / "s", [{"config.seed": seed, "value": 1} for seed in range(3)])
    other = write_run(tmp_path / "other", 5)

    def title(*folders):
        made = runs.read_runs(folders)[0]
        return page.title(made, sweeps.find(made))

    assert title(folder) == "3 runs on tiny_shakespeare"  # Without a sweep file.
    for description, question in (("Why <i>?\n\nBecause.", "Why <i>?"), ("", ""), (3, "3")):
        (folder / "sweep.yaml").write_text(json.dumps({"description": description}))
        assert found(folder).question == question
        assert title(folder) == (question or "3 runs on tiny_shakespeare")
    assert title(folder, other) == "4 runs on tiny_shakespeare"


def test_runs_that_did_not_finish_are_counted_and_left_out(tmp_path):
    points = [
        {"config.seed": 0, "value": 2.0},
        {"config.seed": 1, "value": 0.1, "outcome": "stopped", "status": "interrupted"},
        {"config.seed": 2, "value": 0.2, "outcome": "failed", "status": "failed"},
        {"config.seed": 3, "value": 0.3, "outcome": "diverged", "status": "diverged"},
        {"config.seed": 4, "value": None},
    ]
    sweep = found(write_sweep(tmp_path / "s", points))
    assert [one.name for one in sweep.finished] == ["001"]
    assert sweeps.counts(sweep) == (
        "1 of 5 runs finished; stopped early and left out: 002; failed and left out: 003; "
        "diverged and left out: 004; without the metric and left out: 005"
    )
    # A server's agent leaves no journal: the outcomes are in the summaries.
    (tmp_path / "s/runs.jsonl").unlink()
    assert set(found(tmp_path / "s").left_out) >= {"interrupted", "failed", "diverged"}


def test_an_interval_is_students():
    values = [1.0, 2.0, 4.0, 4.5]
    mean, low, high = statistics.mean_interval(values)
    expected = scipy.stats.t.interval(0.95, 3, fmean(values), scipy.stats.sem(values))
    assert (mean, low, high) == pytest.approx((fmean(values), *expected))


def test_a_difference_is_welchs():
    groups = {"a": [1.0, 1.1, 0.9], "b": [2.0, 2.4, 1.9, 2.2]}
    (made,) = statistics.differences(groups)
    test = scipy.stats.ttest_ind(groups["a"], groups["b"], equal_var=False)
    interval = test.confidence_interval(0.95)
    assert (made.low, made.high) == pytest.approx((interval.low, interval.high))
    assert made.mean == pytest.approx(fmean(groups["a"]) - fmean(groups["b"]))
    assert made.significant == (test.pvalue < 0.05)


def test_holm_corrects_by_hand():
    # 0.01 against 0.05/4, 0.015 against 0.05/3, 0.03 against 0.05/2: there it ends.
    assert statistics.holm([0.03, 0.01, 0.04, 0.015]) == [False, True, False, True]
    assert statistics.holm([]) == []


def test_runs_without_any_spread_are_still_told_apart():
    one, same = statistics.differences({"a": [1.0, 1.0], "b": [2.0, 2.0], "c": [1.0, 1.0]})[:2]
    assert one.significant and not same.significant


def test_with_a_baseline_it_is_dunnetts():
    # Counts of red cells in Dunnett (1955), table 1: of two drugs B differs from the control. By
    # hand: 95 % of |t| below 2.5 for two comparisons and 12 degrees of freedom, 16 - 1 - 3.
    groups = {
        "control": [7.40, 8.50, 7.20, 8.24, 9.84, 8.32],
        "A": [9.76, 8.80, 7.68, 9.36],
        "B": [12.80, 9.68, 12.16, 9.20, 10.55],
    }
    a, b = statistics.differences(groups, baseline="control")
    assert (a.significant, b.significant) == (False, True)
    squares = sum(sum((x - fmean(some)) ** 2 for x in some) for some in groups.values())
    for made, count in ((a, 4), (b, 5)):
        half = 2.5 * (squares / 12 * (1 / 6 + 1 / count)) ** 0.5
        assert made.high - made.mean == pytest.approx(half, rel=0.03)
        assert made.mean - made.low == pytest.approx(half, rel=0.03)


@pytest.mark.slow
def test_a_clear_effect_among_many_changes_is_seen_with_two_seeds():
    rng = np.random.default_rng(0)
    groups = {f"{i}": rng.normal(0, 0.01, 2).tolist() for i in range(20)}
    groups["better"] = (rng.normal(0, 0.01, 2) - 0.15).tolist()
    found = statistics.differences(groups, baseline="0")
    assert [made.one for made in found if made.significant] == ["better"]


@pytest.mark.long
def test_equal_stages_rarely_differ_significantly():
    """The family-wise error rate is 5 %, among ten pairs and among five with a baseline."""
    rng = np.random.default_rng(1)
    wrong = sum(
        any(
            made.significant
            for made in statistics.differences({k: rng.normal(size=4).tolist() for k in "abcde"})
        )
        for _ in range(150)
    )
    assert scipy.stats.binomtest(wrong, 150, 0.05, "greater").pvalue > 0.01
    wrong = sum(
        any(
            made.significant
            for made in statistics.differences(
                {k: rng.normal(size=3).tolist() for k in "abcdef"}, baseline="a"
            )
        )
        for _ in range(150)
    )
    assert scipy.stats.binomtest(wrong, 150, 0.05, "greater").pvalue > 0.01


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [(0.5, ": statistically significant"), (0.0, ": not statistically significant")],
)
def test_stages_are_compared_in_words(tmp_path, gap, verdict):
    sweep = found(write_sweep(tmp_path / "s", two_stages(gap=gap)))
    compute, sentence = sweeps.statements(sweep)
    assert re.fullmatch(r"The runs took \S+e12 to \S+e13 training FLOPs: not equal.", compute)
    assert sentence.startswith("transformer_decoder is ")
    assert f"{verdict} (Welch's t-test, 3 seeds)." in sentence


def rows_of(chart):
    """Returns the data of each layer of a chart."""
    layers = chart.get("layer", [chart])
    data = [layer.get("data") or chart["data"] for layer in layers]
    return [one["values"] if "values" in one else chart["datasets"][one["name"]] for one in data]


def presets(names, seeds=3):
    """Returns points of presets of one experiment, each better than 2 by its gain."""
    rng = np.random.default_rng(0)
    return [
        {
            "config": f"experiments/gpt2.py{name}",
            "config.seed": seed,
            "value": 2 - gain + rng.normal(0, 0.002),
        }
        for seed in range(seeds)
        for name, gain in names.items()
    ]


def test_presets_of_one_model_are_compared_with_the_experiment_without_one(tmp_path):
    points = presets({":rotary": 0.1, "": 0.0, ":alibi": 0.0, ":sgd": -0.5})
    sweep = found(write_sweep(tmp_path / "s", points))
    compute, *said = sweeps.statements(sweep)
    assert re.fullmatch(r"Each run took \S+e13 training FLOPs.", compute)
    names = [sentence.split()[0] for sentence in said]
    assert names == ["gpt2:rotary", "gpt2:alibi", "gpt2:sgd"]
    assert all(" gpt2 (95 %" in sentence for sentence in said)
    verdicts = [sentence.partition("): ")[2] for sentence in said]
    assert verdicts == [
        "statistically significant (Dunnett's test, 3 seeds).",
        "not statistically significant (Dunnett's test, 3 seeds).",
        "statistically significant (Dunnett's test, 3 seeds).",
    ]
    made = sweep_charts.charts(sweep)
    assert_valid(made.values())
    headings = list(made)
    assert headings[0] == "Experiments compared: mean over seeds, 95 % confidence interval"


def test_without_a_baseline_all_presets_are_compared(tmp_path):
    points = presets({":rotary": 0.1, ":alibi": 0.0, ":sgd": -0.5})
    _, *said = sweeps.statements(found(write_sweep(tmp_path / "s", points)))
    assert len(said) == 3 and all("(Welch's t-test, Holm-corrected, 3 seeds)" in x for x in said)


def ideas_of_two_stages():
    """Returns points of two stages with and without ideas; one that leaks, one that is unsteady."""
    rng = np.random.default_rng(0)
    losses = {
        "transformer_decoder.py:a+b": (1.7, 0.002),
        "transformer_decoder.py:a+b+without_mask": (0.02, 0.0001),
        "transformer_decoder.py:a+b+without_mlp": (1.8, 0.002),
        "transformer_decoder.py:a+b+without_scale": (1.9, 0.2),
        "gpt2.py:a": (1.6, 0.002),
        "gpt2.py:a+without_gelu": (1.6, 0.002),
        "gpt2.py:a+without_biases": (1.65, 0.002),
    }
    return [
        {
            "config": f"experiments/{name}",
            "config.seed": seed,
            "stage": 4 if name.startswith("t") else 5,
            "value": mean + rng.normal(0, deviation),
            **({"config.model.without": "mask"} if "mask" in name else {}),
        }
        for seed in range(3)
        for name, (mean, deviation) in losses.items()
    ]


@pytest.mark.slow
def test_changes_to_several_stages_are_each_compared_with_their_own(tmp_path):
    sweep = found(write_sweep(tmp_path / "s", ideas_of_two_stages()))
    groups = sweep.best_settings()
    pairs = [(one.one.rpartition("+")[2], one.other) for one in sweep.differences]
    decoder, gpt2 = "transformer_decoder:a+b", "gpt2:a"
    assert pairs == [
        *((f"without_{idea}", decoder) for idea in ("mask", "mlp", "scale")),
        *((f"without_{idea}", gpt2) for idea in ("gelu", "biases")),
    ]
    # Holm's correction is over the ideas of a stage: at a quarter of a nat the scale has too much
    # noise, and the noise does not hide the others, as it would if it were pooled.
    for base, verdicts in ((decoder, [True, True, False]), (gpt2, [False, True])):
        p_values = [
            scipy.stats.ttest_ind(groups[one.one], groups[base], equal_var=False).pvalue
            for one in sweep.differences
            if one.other == base
        ]
        assert statistics.holm(p_values) == verdicts
        assert [x.significant for x in sweep.differences if x.other == base] == verdicts
    # A model that sees what it predicts is not the best one.
    assert "without_gelu" in sweep.best.swept["config"] or sweep.best.swept["config"].endswith(":a")
    said = sweeps.statements(sweep)
    assert len(said) == 1 + len(pairs) and "without_mask is 1.6" in said[1]
    made = sweep_charts.charts(sweep)
    assert_valid(made.values())
    heading = "Experiments against their baseline: difference, with its 95 % interval"
    assert [row["change"] for row in rows_of(made[heading])[-1]][:2] == [
        "transformer_decoder without_mask",
        "transformer_decoder without_mlp",
    ]


def five_stages(gaps=(0.5, 0.3, 0.0, 0.0, 0.4)):
    """Returns points of the five stages with three seeds, each below the one before by a gap."""
    rng = np.random.default_rng(0)
    return [
        {
            "config": f"experiments/{name}.py",
            "config.seed": seed,
            "stage": stage,
            "value": 3 - sum(gaps[:stage]) + rng.normal(0, 0.01),
        }
        for seed in range(3)
        for stage, name in enumerate(default.LADDER, start=1)
    ]


@pytest.mark.slow
def test_many_pairs_are_a_matrix_and_only_neighbours_have_sentences(tmp_path):
    sweep = found(write_sweep(tmp_path / "s", five_stages()))
    groups = sweep.best_settings()
    cells = sweep.matrix.cells
    for (row, column), one in cells.items():
        assert one.mean == pytest.approx(fmean(groups[row]) - fmean(groups[column]))
        other = cells[column, row]
        assert (one.low, one.high) == (-other.high, -other.low)
        assert one.significant == other.significant
    assert len(cells) == 5 * 4 and sweep.matrix.num_pairs == 10
    p_values = [
        scipy.stats.ttest_ind(groups[a], groups[b], equal_var=False).pvalue
        for a, b in combinations(groups, 2)
    ]
    assert [cells[pair].significant for pair in combinations(groups, 2)] == list(
        statistics.holm(p_values)
    )
    _, count, *neighbours = sweeps.statements(sweep)
    assert count.startswith(f"Of 10 pairs {sum(statistics.holm(p_values))} differ")
    # A stage that is lower than the one before it is below it.
    assert [tuple(x.split()[:5:4]) for x in neighbours] == [
        (later, earlier) for earlier, later in pairwise(groups)
    ]
    assert neighbours[0].split()[3] == "below"
    rendered = page.render(sweep.finished, [(sweep, {})], [])
    table = rendered.split('<table class="matrix">')[1].split("</table>")[0]
    shown = re.findall(r"<td.*?>([+-]\d\.\d{3})(\*?)<small>", table)
    assert shown == [
        (f"{cells[pair].mean:+.3f}", "*" * cells[pair].significant)
        for pair in product(groups, groups)
        if pair in cells
    ]


def test_presets_without_a_baseline_have_no_neighbours(tmp_path):
    points = presets({":rotary": 0.1, ":alibi": 0.0, ":sgd": -0.5, ":relu": 0.2})
    _, count = sweeps.statements(found(write_sweep(tmp_path / "s", points)))
    assert count.startswith("Of 6 pairs ")


@pytest.mark.parametrize("third", [False, True])
def test_a_number_is_drawn_as_a_line_for_each_value_of_another(tmp_path, third):
    points = [
        {
            "config.optimizer.learning_rate": rate,
            "config.model.embed_dim": width,
            **({"config.model.mup_base_dim": base} if third else {}),
            "value": 2 + (math.log10(rate) + 2) ** 2 + seed / 100,
            "config.seed": seed,
        }
        for seed in range(2)
        for width in (32, 64)
        for base in ((0, 32) if third else (0,))
        for rate in (1e-3, 1e-2, 1e-1, 1.0)
        if (width, rate) != (64, 1.0)  # As if those had diverged: a gap.
    ]
    sweep = found(write_sweep(tmp_path / "s", points))
    heading = "val/loss against optimizer.learning_rate, a line for each model.embed_dim"
    made = sweep_charts.charts(sweep)
    assert_valid(made.values())
    chart = made[heading]
    (rows,) = rows_of(chart)
    assert len(rows) == 7 * (1 + third)
    assert {row["of"] for row in rows} == {"32", "64"}
    assert {row["mean"] for row in rows if row["x"] == 1e-2} == {2.005}
    assert ("facet" in chart) == third
    x = chart.get("spec", chart)["encoding"]["x"]
    assert x["axis"]["values"] == [1e-3, 1e-2, 1e-1, 1.0] and x["scale"]["type"] == "log"


def test_which_numbers_have_a_logarithmic_axis():
    assert statistics.spans_decades([0.002, 0.008, 0.032])
    assert not statistics.spans_decades([1, 2, 3, 4, 6])
    assert not statistics.spans_decades([0, 16, 160])


def test_vocabularies_are_compared_in_bits_per_byte_and_in_speed(tmp_path):
    names = {"byte": 256, "gpt2": 50_257, "bpe:512": 512}
    points = [{"config.data.tokenizer": name, "value": 1.5} for name in names]
    folder = write_sweep(tmp_path / "s", points, {"name": "val/bits_per_byte"})
    learned = {"model": {"vocab": {str(token): token for token in range(512)}}}
    for path, name in zip(sorted(folder.glob("*/tokenizer.json")), names, strict=True):
        more = {"learned": learned} if name.startswith("bpe") else {}
        run_folder.write_json(path, {"name": name, **more})
    made = sweep_charts.charts(found(folder))
    assert_valid(made.values())
    for what in ("Bits per byte of validation text", "Bytes of training text per second"):
        rows = rows_of(made[f"{what}, against the size of the vocabulary"])[0]
        assert {row["tokenizer"]: row["x"] for row in rows} == names
    # A token of write_run is a byte: as many bytes a second as tokens.
    run = found(folder).finished[0]
    expected = run.last("tokens_seen") / run.last("seconds")
    expected *= run.last("val/loss") / math.log(2) / run.last("val/bits_per_byte")
    assert rows[0]["speed"] == pytest.approx(expected)


def test_one_seed_allows_no_test(tmp_path):
    sweep = found(write_sweep(tmp_path / "s", two_stages(seeds=1)))
    _, sentence = sweeps.statements(sweep)
    assert "Give config.seed more values" in sentence


def test_each_stage_is_compared_at_its_best_setting(tmp_path):
    points = [
        {**point, "config.optimizer.learning_rate": rate, "value": point["value"] + worse}
        for point in two_stages()
        for rate, worse in ((0.1, 1.0), (0.01, 0.0))
    ]
    sweep = found(write_sweep(tmp_path / "s", points))
    groups = sweep.best_settings()
    assert len(sweep.settings()) == 4 and all(len(values) == 3 for values in groups.values())
    assert fmean(groups["gpt2"]) == pytest.approx(1.5, abs=0.05)
    assert "best mean" in sweeps.statements(sweep)[1]


def grid(seeds=3):
    """Returns points of two models at four numbers of heads, whose losses fall by known steps."""
    rng = np.random.default_rng(0)
    losses = {"multi_head_attention": (2.3, 2.1, 2.0, 1.9), "transformer_decoder": (2.1, 1.9, 1.9)}
    return [
        {
            "config": f"experiments/{name}.py",
            "config.model.num_heads": 2**place,
            "config.seed": seed,
            "value": loss + rng.normal(0, 0.001),
        }
        for seed in range(seeds)
        for name, of_model in losses.items()
        for place, loss in enumerate(of_model)
    ]


def test_a_grid_over_one_number_says_what_it_does_in_each_model(tmp_path):
    """And does not compare the models: that is not what it asks."""
    sweep = found(write_sweep(tmp_path / "s", grid()))
    _, heads, decoder, legend = sweeps.statements(sweep)
    assert heads == (
        "multi_head_attention: val/loss is lowest at model.num_heads=8, 1.900. "
        "From one value to the next: 1 to 2 -0.200*, 2 to 4 -0.100*, 4 to 8 -0.100*."
    )
    assert re.fullmatch(
        r"transformer_decoder: val/loss is lowest at model.num_heads=[24], 1\.\d{3}. From one "
        r"value to the next: 1 to 2 -0.200\*, 2 to 4 [+-]0.00\d\.",
        decoder,
    )
    assert legend == (
        "An asterisk marks a statistically significant step (Welch's t-test, Holm-corrected)."
    )
    assert not sweep.differences
    assert not any("compared" in heading for heading in sweep_charts.charts(sweep))
    for effect in sweep.effects:
        assert all(len(values) == 3 for values in effect.values.values())


def test_steps_of_all_effects_are_corrected_together(tmp_path):
    sweep = found(write_sweep(tmp_path / "s", grid()))
    p_values = [
        scipy.stats.ttest_ind(later, one, equal_var=False).pvalue
        for effect in sweep.effects
        for one, later in pairwise(effect.values.values())
    ]
    shown = re.findall(r" to \d \S+?(\*?)[,.](?: |$)", " ".join(sweeps.statements(sweep)))
    assert [mark == "*" for mark in shown] == statistics.holm(p_values)


def test_a_number_alone_and_one_seed(tmp_path):
    points = [{"config.model.num_layers": n, "value": 2 - n / 10} for n in (1, 3, 2)]
    metric = {"name": "val/loss", "goal": "maximize"}
    _, sentence, seeds = sweeps.statements(found(write_sweep(tmp_path / "s", points, metric)))
    assert sentence == (
        "val/loss is highest at model.num_layers=1, 1.900. "
        "From one value to the next: 1 to 2 -0.100, 2 to 3 -0.100."
    )
    assert seeds.startswith("One seed allows no test")


def test_importance_finds_the_parameter_that_matters_and_ignores_the_seed(tmp_path):
    rng = np.random.default_rng(0)
    points = [
        {
            "config.optimizer.learning_rate": float(10 ** rng.uniform(-4, -1)),
            "config.model.embed_dim": int(rng.choice([16, 32, 64])),
            "config.seed": seed,
        }
        for seed in range(24)
    ]
    for point in points:
        rate = math.log10(point["config.optimizer.learning_rate"])
        point["value"] = 1 + (rate + 2.5) ** 2 + 0.001 * point["config.model.embed_dim"]
    sweep = found(write_sweep(tmp_path / "s", points))
    shares = sweep.importance()
    assert shares.keys() == {"config.optimizer.learning_rate", "config.model.embed_dim"}
    assert shares["config.optimizer.learning_rate"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    assert sweep.importance() == shares


def test_too_few_runs_give_no_importance(tmp_path):
    assert found(write_sweep(tmp_path / "s", two_stages())).importance() == {}


def test_positions_keep_the_order_and_the_ends():
    places, ticks = sweep_charts.axis_positions([0.001, 0.1, 0.01])
    assert places == pytest.approx([0, 1, 0.5])  # Logarithmic: it spans decades.
    assert {word: at for at, word in ticks} == pytest.approx({"0.001": 0, "0.01": 0.5, "0.1": 1})
    places, ticks = sweep_charts.axis_positions(["b", "a", "b"])
    assert places[0] == places[2] > places[1]
    assert {word for _, word in ticks} == {"a", "b"}
    assert sweep_charts.axis_positions([3, 3])[0] == [0.5, 0.5]


@pytest.mark.slow
def test_hostile_names_stay_text(tmp_path):
    bad = "<script>alert(1)</script>"
    points = [{"config.x.y": f"{bad}{i}", "config.seed": i, "value": i + 1.0} for i in range(2)]
    folder = tmp_path / "s"
    points = [{**point} for point in points]
    for point in points:
        point.pop("config.x.y")
    write_sweep(folder, points)
    for i, path in enumerate(sorted(folder.glob("*/sweep.json"))):
        run_folder.write_json(path, {"sweep_id": bad, "parameters": {f"config.{bad}": i}})
    made, unread = runs.read_runs([folder])
    swept = [(one, sweep_charts.charts(one)) for one in sweeps.find(made)]
    assert "<script>alert" not in page.render(made, swept, unread)


@pytest.mark.slow
def test_figures_of_hostile_values(tmp_path):
    points = [{"config.seed": i, "value": i + 1.0} for i in range(3)]
    write_sweep(tmp_path / "s", points)
    values = ["bell \x07 & <b>", "half a pair \ud800", "a" * 300]
    for path, value in zip(sorted((tmp_path / "s").glob("*/sweep.json")), values, strict=True):
        parameters = {"config.x": value, "config.y": 2**70}
        run_folder.write_json(path, {"sweep_id": "s", "parameters": parameters})
    made, _ = runs.read_runs([tmp_path / "s"])
    (sweep,) = sweeps.find(made)
    paths = figures.write(tmp_path / "figures", made, [sweep_charts.charts(sweep)])
    texts = [" ".join(ElementTree.parse(path).getroot().itertext()) for path in paths]
    assert any("bell \N{REPLACEMENT CHARACTER} & <b>" in text for text in texts)
    spec = sweep_charts.importance_bars({"config.x": 0.5})
    *_, path = figures.write(tmp_path / "long", [], [{"x" * 300: spec}])
    assert path.is_file() and len(path.name) < 100


def test_names_are_whole_in_figures(tmp_path):
    name = "001-gpt2_vocabulary-bpe_1024,seed=0"
    spec = sweep_charts.importance_bars({name: 0.5})
    *_, path = figures.write(tmp_path, [], [{"bars": spec}])
    assert name in ElementTree.parse(path).getroot().itertext()


@pytest.mark.slow
def test_more_curves_than_labels_are_not_drawn(tmp_path):
    for count in (8, 9):
        folder = tmp_path / f"{count}"
        for i in range(count):
            write_run(folder / f"run-{i}", 1, config={"model.embed_dim": i})
        made, _ = runs.read_runs([folder])
        drawn = {path.stem for path in figures.write(folder / "figures", made, [])}
        assert ("val-loss-against-step" in drawn) == (count == 8)


def test_many_runs_show_the_samples_of_the_best(tmp_path):
    points = [{"config.seed": seed, "value": 2.0} for seed in range(30)]
    made, _ = runs.read_runs([write_sweep(tmp_path / "s", points)])
    shown = page.with_samples(made)
    assert len(shown) == page.MAX_SAMPLES
    worst = max(one.last("val/bits_per_byte") for one in shown)
    assert all(one in shown or one.last("val/bits_per_byte") >= worst for one in made)


@pytest.mark.long
def test_the_terminal_and_the_page_of_a_real_sweep(tmp_path):
    folder = tmp_path / "sweep"
    flags = (f"--workdir={folder}", "--workers=2", "--count=3", "--preset=smoke")
    swept = run("sweeps/run.py", "sweeps/compare_stages.yaml", *flags)
    assert swept.returncode == 0, swept.stdout
    output = tmp_path / "report.html"
    told = run("report.py", folder, f"--output={output}")
    assert told.returncode == 0, told.stderr
    assert "3 of 3 runs finished" in told.stdout
    (best,) = [x for x in swept.stdout.splitlines() if x.startswith("best ")]
    assert best.partition(": ")[2] in told.stdout
    if browser.is_wanted():
        with browser.launch() as chromium, browser.open_file(chromium, output) as opened:
            section = opened.locator("section.sweep")
            assert "One seed allows no test" in section.inner_text()
            assert section.locator("svg").count() >= 3


def test_figures_of_a_sweep_have_names_of_their_own(tmp_path):
    spec = sweep_charts.importance_bars({"config.seed": 0.5})
    headings = ["Loss against x: runs", "Loss against x, a line each", "¿…?", "../../escape"]
    folder = tmp_path / "figures"
    paths = figures.write(folder, [], [dict.fromkeys(headings, spec)])
    names = [path.name for path in paths if path.name[:3] not in ("val", "bit")]
    assert names == ["loss-against-x.svg", "loss-against-x-2.svg", "chart.svg", "escape.svg"]
    assert sorted(paths) == sorted(folder.iterdir())
