"""The ladder as a command; test_readme.py runs it to its end."""

import json
import re
import signal
import subprocess
import sys

import psutil
import pytest
import yaml

import harness
import run_folder
from experiments import comparison, default
from tests.command import PATIENCE, ROOT, assert_refused, run
from training.setup import check_config

README = (ROOT / "README.md").read_text()


@pytest.mark.long
def test_a_signal_stops_the_runs_that_train_and_the_ladder(tmp_path):
    # Of full size: none ends before the signal comes.
    command = [sys.executable, "ladder.py", f"--workdir={tmp_path}"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, cwd=ROOT, **pipes)
    while "start bigram" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, errors
    assert output == "stopping: run the same command again to resume\n"
    assert errors == "terminated\n"
    assert not [one for one in psutil.process_iter() if str(tmp_path) in " ".join(words_of(one))]


def test_runs_beside_each_other_end_together():
    """By the seconds in the README's table two workers need a twentieth more than they must."""
    script = "import json, ladder; print(json.dumps([ladder.LONGER, *ladder.BESIDE]))"
    printed = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT)
    longer, *beside = json.loads(printed)
    cells = re.findall(r"^\| ([^|]+) \|.*?\| ([\d.]+) \| [\d.]+ \| \*\*", README, re.MULTILINE)
    assert len(cells) == 6
    seconds = {name if name in beside else longer: float(s) for name, s in cells}
    assert set(seconds) == set(beside)
    ends = [0.0, 0.0]
    for name in beside:
        first = ends.index(min(ends))
        ends[first] += seconds[name]
    assert max(ends) <= 1.05 * max(sum(ends) / 2, *seconds.values())


def words_of(process):
    try:
        return process.cmdline()
    except psutil.Error:  # It has ended by now.
        return []


@pytest.mark.long
@pytest.mark.parametrize(("workers", "started"), [(1, ["bigram"]), (2, ["gpt2-1e13", "bigram"])])
def test_a_run_that_fails_ends_the_ladder(workers, started, tmp_path):
    """The longest run comes first where another can run beside it."""
    result = run("ladder.py", f"--workdir={tmp_path}", "--preset=smok", f"--workers={workers}")
    assert result.returncode == 2
    assert result.stdout.splitlines() == [f"start {name}" for name in started]
    assert result.stderr.startswith("error: unknown preset 'smok'")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_folder_that_is_no_place_for_a_ladder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("ladder.py", f"--workdir={tmp_path}/file")
    assert_refused(result, f"--workdir={tmp_path}/file can't be written")
    with run_folder.lock(tmp_path, "runs this ladder"):
        result = run("ladder.py", f"--workdir={tmp_path}")
    assert_refused(result, "runs this ladder already")


def test_stages_2_to_5_get_the_same_compute_or_are_at_their_floor():
    """And the sixth run is the fifth with more."""
    code = "import json, ladder; ladder.flags.FLAGS(['']); print(json.dumps(ladder.runs()))"
    runs = json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True))
    assert list(runs) == [*default.LADDER, "gpt2-1e13"]
    budgets = {}
    for name, (experiment, *words) in runs.items():
        changes = dict(word.removeprefix("--config.").split("=") for word in words)
        budget = changes.pop("train.flops", None)
        texts = {key: yaml.safe_load(text) for key, text in changes.items()}
        config = harness.config_of(experiment.removeprefix("--config="), texts)
        check_config(config)
        budgets[name] = float(budget or config.train.flops)
    assert budgets.pop("bigram") == 0
    assert budgets.pop("gpt2-1e13") == 1e13
    points = comparison.chosen()["muon"]
    for stage, budget in budgets.items():
        losses = {float(one): point["val/loss"] for one, point in points[stage].items()}
        larger = [loss for one, loss in losses.items() if budget < one <= 3e12]
        assert budget == 3e12 or losses[budget] - min(larger) < 0.005
