"""The comparison at equal compute: its presets, its sweep files, and the search of its points."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from operator import itemgetter
from statistics import fmean

import jax
import jax.numpy as jnp
import pytest
import yaml

from experiments import comparison
from run_folder import flatten
from runtime.errors import UserError
from sweep_engine import search, sweep_file
from sweeps import tune_stages
from tests.command import PATIENCE, ROOT, run, wait_until
from training import optimizer
from training.setup import build_model, check_config

TEMPLATE = yaml.safe_load((ROOT / "sweeps/tune_stages.yaml").read_text())
POINT = {
    "size": 3,
    "train.batch_size": 16,
    "model.context_length": 64,
    "optimizer.learning_rate": 0.01,
    "optimizer.adam_learning_rate": 0.004,
    "val/loss": 2.0,
}


def config_of(stage, preset):
    return importlib.import_module(f"experiments.{stage}").get_config(preset)


@pytest.mark.slow
@pytest.mark.parametrize("stage", comparison.STAGES)
def test_sizes_build_and_grow(stage):
    """Each has 1.3 to 4.1 times the weights in matrices of the one before."""
    counts = []
    for number in range(1, comparison.NUM_SIZES + 1):
        config = config_of(stage, f"size-{number}")
        check_config(config)
        model = build_model(config, vocab_size=65)
        params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))[
            "params"
        ]
        hidden = jax.tree.map(lambda x, mask: x.size * mask, params, optimizer.hidden_mask(params))
        counts.append(sum(jax.tree.leaves(hidden)))
    assert all(1.3 < after / before < 4.1 for before, after in pairwise(counts))


@pytest.mark.parametrize("name", comparison.OPTIMIZERS)
def test_stages_share_the_protocol(name):
    """With it, their configs differ in what the search varies, the model and its labels alone."""
    flat = [flatten(config_of(stage, f"tune-{name}").to_dict()) for stage in comparison.STAGES]
    differ = {key for key in flat[0] if len({str(one[key]) for one in flat}) > 1}
    shape = {f"model.{key}" for key in ("name", "embed_dim", "num_heads", "num_layers")}
    labels = {f"tracking.{key}" for key in ("stage", "notes", "group")}
    assert differ <= {*comparison.SEARCHED, *shape, *labels, "train.num_steps"}
    assert len({one["tracking.group"] for one in flat}) == len(comparison.STAGES)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("size-0", "preset 'size-0': expected size-1 to size-10"),
        ("size-11", "expected size-1 to size-10"),
        ("tune-adam", "preset 'tune-adam': expected tune- and one of adamw, muon"),
        ("flops-1e99-muon", "preset 'flops-1e99-muon': expected one of flops-1e1"),
        ("tokens-1M-sgd", "preset 'tokens-1M-sgd': expected tokens-<n>M- and one of adamw"),
        ("tokens-0M-adamw", "preset 'tokens-0M-adamw': expected at least a batch of"),
    ],
)
def test_an_unknown_preset_is_refused_with_the_known_ones(preset, message):
    with pytest.raises(UserError) as refused:
        config_of("gpt2", preset)
    assert message in str(refused.value)


def test_presets_of_a_length_take_no_budget_from_those_before():
    for preset in ("flops-1e11-adamw+tokens-1M-adamw", "flops-1e11-adamw+smoke"):
        config = config_of("gpt2", preset)
        assert config.train.flops == 0 and config.train.num_steps > 1


def test_there_are_points():
    assert {optimizer for optimizer, _, _ in chosen_points()} == set(comparison.OPTIMIZERS)


def chosen_points():
    return [
        (optimizer, stage, budget)
        for optimizer, stages in comparison.chosen().items()
        for stage, points in stages.items()
        for budget in points
    ]


@pytest.mark.parametrize(("optimizer", "stage", "budget"), chosen_points())
def test_a_chosen_point_is_the_best_of_what_was_tried(optimizer, stage, budget):
    """And its preset has its values. All stages were searched with as many trials."""
    point = comparison.chosen()[optimizer][stage][budget]
    tried = json.loads(tune_stages.TRIED.read_text())[optimizer]
    made = tried[stage][budget]
    assert len(made["search"]) == tune_stages.RUNS.get(budget, TEMPLATE["run_cap"])
    trials = [*made["search"], *made["exchange"]]
    assert point in trials
    losses = [trial["val/loss"] for trial in trials if trial["val/loss"] is not None]
    assert point["val/loss"] == min(losses)
    config = config_of(stage, f"flops-{budget}-{optimizer}")
    check_config(config)
    assert config.train.flops == float(budget)
    # The trial in exchange is the best point of the other stage's search.
    if other := tried[comparison.SAME_SIZES[stage]].get(budget):
        (exchanged,) = made["exchange"]
        best = tune_stages.best_of(other["search"])
        assert {**exchanged, "val/loss": 0} == {**best, "val/loss": 0}
    else:
        assert not made["exchange"]
    for key in comparison.SEARCHED:
        if key in point:
            section, name = key.split(".")
            assert config[section][name] == point[key]


def test_the_sweep_at_equal_compute_has_every_chosen_point_and_no_other():
    content = yaml.safe_load((ROOT / "sweeps/compare_stages_equal_flops.yaml").read_text())
    first, *listed = content["parameters"]["config"]["values"]
    assert first == "experiments/bigram.py"
    assert sorted(listed) == sorted(
        f"experiments/{stage}.py:flops-{budget}-{optimizer}"
        for optimizer, stage, budget in chosen_points()
    )


@pytest.mark.parametrize("optimizer", comparison.OPTIMIZERS)
@pytest.mark.parametrize("center", [None, POINT])
def test_a_search_is_a_sweep_file_around_the_point_before(optimizer, center):
    for stage in comparison.STAGES:
        content = tune_stages.search_file(TEMPLATE, stage, optimizer, "3e12", center)
        sweep_file.parse(content)
        assert "--config.train.flops=3e12" in content["command"]
        values = content["parameters"]
        assert ("config.optimizer.adam_learning_rate" in values) == (optimizer == "muon")
        if center:
            sizes = [one.rpartition("-")[2] for one in values["config"]["values"]]
            assert sizes == ["2", "3", "4", "5"]
            assert values["config.train.batch_size"]["values"] == [8, 16, 32]
            assert values["config.model.context_length"]["values"] == [32, 64, 128]
            rate = values["config.optimizer.learning_rate"]
            assert rate["min"] < 0.01 < rate["max"]
            # The first run has the point itself.
            sweep = sweep_file.parse(content)
            first = search.values_at(sweep, tune_stages.place_of(center, sweep))
            assert first.pop("config") == f"experiments/{stage}.py:tune-{optimizer}+size-3"
            for name, value in first.items():
                assert value == pytest.approx(center[name.removeprefix("config.")])


@pytest.mark.parametrize(
    ("budget", "sizes", "batches", "contexts"),
    [
        ("1e12", "12345", [4, 8, 16, 32, 64], [16, 32, 64, 128, 256]),
        ("3e12", "2345", [8, 16, 32], [32, 64, 128]),
    ],
)
def test_a_search_of_few_runs_stays_closer(budget, sizes, batches, contexts):
    values = tune_stages.search_file(TEMPLATE, "gpt2", "adamw", budget, POINT)["parameters"]
    assert [one[-1] for one in values["config"]["values"]] == list(sizes)
    assert values["config.train.batch_size"]["values"] == batches
    assert values["config.model.context_length"]["values"] == contexts


def test_the_file_itself_is_the_first_search_of_gpt2_with_adamw():
    assert tune_stages.search_file(TEMPLATE, "gpt2", "adamw", "1e10", None) == TEMPLATE


def test_neighbours_stop_at_the_ends():
    assert tune_stages.neighbours([1, 2, 4, 8], 1, reach=1) == [1, 2]
    assert tune_stages.neighbours([1, 2, 4, 8], 4, reach=1) == [2, 4, 8]
    assert tune_stages.neighbours([1, 2, 4, 8], 8, reach=1) == [4, 8]
    assert tune_stages.neighbours([1, 2, 4, 8], 1, reach=2) == [1, 2, 4]


def test_a_stage_is_at_its_floor_when_a_larger_budget_hardly_helped():
    def points(*losses):
        return [{"val/loss": loss} for loss in losses]

    assert not tune_stages.is_at_floor(points())
    assert not tune_stages.is_at_floor(points(2.5))
    assert not tune_stages.is_at_floor(points(2.5, 2.4))
    assert not tune_stages.is_at_floor(points(2.5, 2.4, 2.394))
    assert tune_stages.is_at_floor(points(2.5, 2.4, 2.396))
    assert tune_stages.is_at_floor(points(2.4, 2.41))


def test_the_points_replace_the_experiments_of_a_sweep_file_and_nothing_else():
    text = (ROOT / "sweeps/compare_stages_equal_flops.yaml").read_text()
    found = {"muon": {"gpt2": {"1e12": POINT, "3e11": POINT}, "self_attention": {"3e11": POINT}}}
    made = tune_stages.with_points(text, found)
    before, after = yaml.safe_load(text), yaml.safe_load(made)
    assert after["parameters"].pop("config")["values"] == [
        "experiments/bigram.py",
        "experiments/gpt2.py:flops-3e11-muon",
        "experiments/self_attention.py:flops-3e11-muon",
        "experiments/gpt2.py:flops-1e12-muon",
    ]
    before["parameters"].pop("config")
    assert before == after


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the search needs, for it writes into the checkout."""
    folder = tmp_path_factory.mktemp("search")
    for path in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split():
        if not path.startswith(("tests/", "docs/")):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path)
    return folder


TRIED = "docs/measured/tune_stages.json"
COMMAND = [
    *(sys.executable, "sweeps/tune_stages.py", "--optimizers=muon", "--count=1"),
    *("--stages=self_attention,multi_head_attention", "--budgets=1e10,2e10"),
]


@pytest.mark.long
def test_a_search_that_is_stopped_continues_and_ends_as_an_uninterrupted_one(checkout):
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    results = []
    for name in ("whole", "stopped"):
        for written in (checkout / "experiments/comparison.json", checkout / TRIED):
            written.unlink(missing_ok=True)
        command = [*COMMAND, f"--workdir={name}"]
        if name == "stopped":
            process = subprocess.Popen(command, cwd=checkout, env=environment, text=True)
            journal = checkout / "stopped/muon/self_attention-2e10/runs.jsonl"
            wait_until(journal.exists)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        ended = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        tried = json.loads((checkout / TRIED).read_text())
        results.append((json.loads((checkout / "experiments/comparison.json").read_text()), tried))
    assert results[0] == results[1]
    found, tried = (content["muon"] for content in results[0])
    assert list(found) == list(tried) == ["self_attention", "multi_head_attention"]
    for budget in ("1e10", "2e10"):
        # Each has one trial of its own, and one with the other's point and another loss.
        own, others = (searches[budget] for searches in tried.values())
        for point, exchanged in ((own, others), (others, own)):
            (searched,), (again,) = point["search"], exchanged["exchange"]
            assert {**searched, "val/loss": 0} == {**again, "val/loss": 0} and searched != again
        losses = [point["val/loss"] for point in (*own["search"], *own["exchange"])]
        assert found["self_attention"][budget]["val/loss"] == min(losses)


SWEEP_OF_TWO = """
program: main.py
method: grid
metric: {{name: val/loss, goal: minimize}}
parameters:
  config: {{values: ["experiments/bigram.py:{first}", "experiments/bigram.py:{second}"]}}
command: ["${{env}}", "${{interpreter}}", "${{program}}", "${{args}}"]
"""


@pytest.mark.long
def test_a_night_of_sweeps_goes_on_after_failed_runs_alone(checkout):
    """Not after a mistake in a sweep file, which runs nothing."""
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    (checkout / "docs/measured").mkdir(parents=True, exist_ok=True)
    for name, first, second in (
        ("empty", "unknown", "another"),
        ("broken", "smoke", "unknown"),
        ("whole", "smoke", "smoke+smoke"),
    ):
        text = SWEEP_OF_TWO.format(first=first, second=second)
        (checkout / f"sweeps/{name}.yaml").write_text(text)
    (checkout / "sweeps/wrong.yaml").write_text("method: guess")

    def make(*names):
        # The environment is there, whatever the times of the copies are.
        return subprocess.run(
            ["make", "-o", ".venv/setup.stamp", "ideas", f"IDEAS={' '.join(names)}"],
            cwd=checkout,
            env={**os.environ, "WANDB_MODE": "disabled"},
            capture_output=True,
            text=True,
        )

    stopped = make("wrong", "whole")
    assert stopped.returncode == 2 and "sweeps/wrong.yaml: " in stopped.stderr
    assert not (checkout / "runs").exists()
    ended = make("empty", "broken", "whole")
    assert ended.returncode == 2
    assert "error: runs failed, see above, in: empty broken\n" in ended.stderr
    assert "error: no report, see above, of: empty\n" in ended.stderr
    for name, num_runs in (("broken", 1), ("whole", 2)):
        kept = json.loads((checkout / f"docs/measured/{name}.json").read_text())
        assert len(kept["runs"]) == num_runs


@pytest.mark.slow
def test_a_wrong_flag_is_one_line():
    for flag in ("--budgets=many", "--stages=bigram", "--optimizers=sgd", "--budgets=-1"):
        result = run("sweeps/tune_stages.py", flag, "--workdir=/nowhere")
        assert result.returncode == 2, flag
        assert result.stderr.startswith(f"error: {flag}: ") and result.stderr.count("\n") == 1


def measured(sweep, budget_of):
    """Returns the losses of a sweep's runs by optimizer, model and budget."""
    losses = {}
    for one in json.loads((ROOT / f"docs/measured/{sweep}.json").read_text())["runs"]:
        key = one["optimizer.name"], one["model.name"], str(budget_of(one))
        losses.setdefault(key, []).append(one["val/loss"])
    return losses


def means_of(title):
    """Yields the losses of a table of the page: model, budget, mean."""
    _, _, section = (ROOT / "docs/comparison.md").read_text().partition(f"### {title}\n")
    header, _, *lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()
    names = [cell.strip() for cell in header.strip("|").split("|")][1:]
    for line in lines:
        budget, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        cells = dict(zip(names, cells, strict=True))
        yield from ((name, budget, float(cell)) for name, cell in cells.items() if cell)


def flops_of(run):
    return f"{run['train.flops']:.0e}".replace("e+", "e")


def tokens_of(run):
    return re.search("tokens-([0-9.]+M)", run["name"])[1]


@pytest.mark.parametrize(
    ("title", "sweep", "budget_of", "optimizer", "seeds"),
    [
        ("With adamw", "compare_stages_equal_flops", flops_of, "adamw", 3),
        ("With muon", "compare_stages_equal_flops", flops_of, "muon", 3),
        ("By tokens with adamw", "compare_stages", tokens_of, "adamw", 3),
        ("By tokens with muon", "compare_stages", tokens_of, "muon", 3),
        ("By heads", "heads", itemgetter("model.num_heads"), "adamw", 3),
        ("By blocks", "depth", itemgetter("model.num_layers"), "adamw", 3),
        (
            "By characters of context",
            "context_length",
            itemgetter("model.context_length"),
            "adamw",
            3,
        ),
        (
            "By dropout and updates",
            "dropout",
            lambda run: f"{run['model.dropout_rate']:g}, {run['train.num_steps']}",
            "adamw",
            3,
        ),
        ("By learning rate", "learning_rate", itemgetter("optimizer.learning_rate"), "adamw", 1),
    ],
)
def test_the_page_has_the_means_that_were_measured(title, sweep, budget_of, optimizer, seeds):
    losses = measured(sweep, budget_of)
    seen = {}
    for name, budget, mean in means_of(title):
        # The table of bigrams was trained with one optimizer.
        key = "adamw" if name == "bigram" else optimizer, name, budget
        assert mean == pytest.approx(fmean(losses[key]), abs=0.0006), key
        seen[key] = len(losses[key])
    # Without a budget there are the bigrams of the other sweep, whose loss is in the text.
    wanted = {key for key in losses if key[2] != "0e00" and key[0] in (optimizer, "adamw")}
    assert seen == {key: seeds for key in wanted if key[0] == optimizer or key[1] == "bigram"}


def test_the_page_of_gpt2_has_the_losses_that_were_measured():
    losses = {}
    for one in json.loads((ROOT / "docs/measured/architecture.json").read_text())["runs"]:
        preset = re.search("gpt2_?(.*),", one["name"])[1]
        losses.setdefault(f"`:{preset}`" if preset else "**as published**", []).append(one)
    published = fmean(one["val/loss"] for one in losses["**as published**"])
    page = (ROOT / "docs/gpt2.md").read_text()
    rows = re.findall(r"^\| (.*) \| (\d\..*) \| ([+-].*) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert {name for name, *_ in rows} == set(losses)
    for name, seeds, difference, updates in rows:
        runs = sorted(losses[name], key=itemgetter("seed"))
        assert seeds == ", ".join(f"{one['val/loss']:.3f}" for one in runs)
        mean = fmean(one["val/loss"] for one in runs)
        assert float(difference) == pytest.approx(mean - published, abs=0.0006)
        assert updates == f"{runs[0]['train.num_steps']:,}"
