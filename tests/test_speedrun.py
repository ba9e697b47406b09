"""The speedruns: the command that measures them, and its results for the current presets."""

import json
from pathlib import Path

import pytest

import run_folder
from benchmarks import results, speedrun
from experiments import gpt2
from tests.command import assert_refused, run

ROOT = Path(__file__).parent.parent


def test_the_results_are_of_the_current_presets():
    rows = json.loads((ROOT / "benchmarks/speedrun.json").read_text())["rows"]
    expected = [(preset, seed) for preset in speedrun.FORMS for seed in (0, 1, 2)]
    assert [(row["preset"], row["seed"]) for row in rows] == expected
    for row in rows:
        config = gpt2.get_config(row["preset"])
        assert row["updates"] == config.train.num_steps


def test_records_name_the_worst_of_three_seeds():
    """Each preset's line in docs/speedrun.md has all losses and the longest time."""
    rows = json.loads((ROOT / "benchmarks/speedrun.json").read_text())["rows"]
    lines = (ROOT / "docs/speedrun.md").read_text().splitlines()
    for preset in speedrun.FORMS:
        own = [row for row in rows if row["preset"] == preset]
        (line,) = [line for line in lines if "| A |" in line and f"`:{preset}`" in line]
        assert f"| {max(row['seconds'] for row in own):.1f} |" in line
        assert ", ".join(f"{row['val_loss']:.3f}" for row in own) in line


@pytest.mark.long
def test_one_is_trained_and_what_this_machine_measured_is_kept(tmp_path):
    output = tmp_path / "speedrun.json"
    words = ("-m", "benchmarks.speedrun", "--presets=speedrun_5s", "--seeds=0")
    before = [{"preset": "speedrun_5s", "seed": 1, "val_loss": 1.8}]
    run_folder.write_json(output, {"machine": results.host(), "rows": before})
    result = run(*words, f"--output={output}")
    assert result.returncode == 0, result.stderr
    first, second = json.loads(output.read_text())["rows"]
    assert (first["seed"], second) == (0, before[0])
    assert first["val_loss"] < 1.88
    assert first["seconds"] > 0


def test_rows_of_another_machine_are_left_out(tmp_path):
    output, rows = tmp_path / "speedrun.json", [{"preset": "speedrun_5s"}]
    assert speedrun.measured_before(output, results.host()) == []
    for machine, kept in ((results.host(), rows), ({"cpu": "another"}, [])):
        run_folder.write_json(output, {"machine": machine, "rows": rows})
        assert speedrun.measured_before(output, results.host()) == kept


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--presets=speedrun_1s", "expected some of speedrun_5s,speedrun_30s"),
        ("--seeds=-1", "expected whole numbers"),
        ("--seeds=one", "expected whole numbers"),
    ],
)
def test_a_wrong_flag(flag, expected):
    assert_refused(run("-m", "benchmarks.speedrun", flag), f"{flag}: {expected}")


def test_an_output_in_no_folder_is_refused_before_the_training():
    result = run("-m", "benchmarks.speedrun", "--output=/nowhere/speedrun.json")
    assert_refused(result, "--output=/nowhere/speedrun.json: expected a .json file in")
