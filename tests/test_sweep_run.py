"""Tests of sweeps/run.py as a user runs it: real files, real processes, real kills."""

import contextlib
import datetime
import json
import os
import pty
import random
import re
import runpy
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import run_folder
from experiments.default import get_config
from runtime.errors import UserError
from sweep_engine import command, search, sweep_file
from sweep_engine.hyperband import Hyperband
from sweep_engine.progress import Progress
from sweep_engine.workers import MEMORY, share_cores, share_gpus
from tests.command import OF_A_COMMAND, PATIENCE, ROOT, assert_refused, wait_until
from tests.forked import run
from training.setup import check_config

SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
OBJECTIVE = {
    "program": "tests/objective.py",
    "method": "grid",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"level": {"values": [3, 1, 2]}},
}


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def sweep(tmp_path, content, *flags, **environment):
    """Runs a sweep of `content` in tmp_path/sweep."""
    file = write(tmp_path / "file.yaml", content)
    return run("sweeps/run.py", file, f"--workdir={tmp_path / 'sweep'}", *flags, **environment)


def events(folder, kind=None):
    lines = list(run_folder.read_lines(folder / "runs.jsonl"))
    return [line for line in lines if kind in (None, line["event"])]


def outcomes(folder):
    return {line["run"]: line["outcome"] for line in events(folder, "ended")}


@pytest.mark.long
def test_a_grid_is_run_whole_and_its_best_is_named(tmp_path):
    result = sweep(tmp_path, OBJECTIVE, "--workers=2")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "sweep"
    assert outcomes(folder) == dict.fromkeys(
        ("001-level=3", "002-level=1", "003-level=2"), "finished"
    )
    values = {line["run"]: line["value"] for line in events(folder, "ended")}
    assert values["002-level=1"] == pytest.approx(1 + 1 / 3)
    assert "best val/loss 1.3333: python tests/objective.py --level=1" in result.stdout
    for line in result.stdout.splitlines():
        assert not line.startswith("start") or "python tests/objective.py --level=" in line
    assert yaml.safe_load((folder / "sweep.yaml").read_text()) == OBJECTIVE


@pytest.mark.long
def test_a_finished_sweep_is_not_run_again(tmp_path):
    sweep(tmp_path, OBJECTIVE)
    before = events(tmp_path / "sweep")
    again = sweep(tmp_path, OBJECTIVE)
    assert again.returncode == 0
    assert events(tmp_path / "sweep") == before
    assert "best val/loss 1.3333" in again.stdout


@pytest.mark.slow
def test_a_folder_that_can_not_be_written_ends_the_sweep_in_one_line(tmp_path):
    """As on a full disk: its record is moved away while a run goes on."""
    content = {**OBJECTIVE, "parameters": {"level": {"values": [1, 2]}, "pause": {"value": 0.5}}}
    file = write(tmp_path / "file.yaml", content)
    command = [sys.executable, "sweeps/run.py", str(file), f"--workdir={tmp_path / 'sweep'}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(tmp_path.glob("sweep/001-*/metrics.jsonl")))
    (tmp_path / "sweep").rename(tmp_path / "moved")
    (tmp_path / "sweep").write_text("in the way")
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "Traceback" not in error
    assert error.splitlines()[-1].startswith(f"error: {tmp_path}/sweep can't be written (")
    assert len(events(tmp_path / "moved", "proposed")) >= 1


@pytest.mark.slow
def test_a_sweep_grows_by_a_higher_count(tmp_path):
    content = {**OBJECTIVE, "method": "random", "parameters": {"level": {"min": 0.0, "max": 1.0}}}
    sweep(tmp_path, content, "--count=2")
    sweep(tmp_path, content, "--count=5")
    whole = events(tmp_path / "sweep", "proposed")
    (tmp_path / "other").mkdir()
    sweep(tmp_path / "other", content, "--count=5", "--workers=3")
    other = events(tmp_path / "other" / "sweep", "proposed")
    assert len(whole) == 5
    assert [run["parameters"] for run in whole] == [run["parameters"] for run in other]


@pytest.mark.slow
def test_maximize_and_a_target_that_ends_the_sweep(tmp_path):
    metric = {"name": "val/loss", "goal": "maximize", "target": 2.2}
    result = sweep(tmp_path, {**OBJECTIVE, "metric": metric})
    assert result.returncode == 0
    # The first run, with level 3, is past the target.
    assert outcomes(tmp_path / "sweep") == {"001-level=3": "finished"}
    assert "best val/loss 3.3333" in result.stdout


def test_run_cap_and_count_bound_a_grid_of_any_size(tmp_path):
    parameters = {"level": {"min": 0, "max": 2**32 - 1}, "fail": {"value": 0}}
    sweep(tmp_path, {**OBJECTIVE, "parameters": parameters, "run_cap": 2}, "--count=9")
    assert [*outcomes(tmp_path / "sweep")] == ["001-fail=0,level=0", "002-fail=0,level=1"]


def test_failures_are_retried_and_reported_at_the_end(tmp_path):
    parameters = {"level": {"value": 1}, "fail": {"values": [0, 1, 9]}}
    result = sweep(tmp_path, {**OBJECTIVE, "parameters": parameters}, "--retries=2")
    folder = tmp_path / "sweep"
    assert result.returncode == 1
    assert outcomes(folder) == {
        "001-fail=0,level=1": "finished",
        "002-fail=1,level=1": "finished",
        "003-fail=9,level=1": "failed",
    }
    starts = [line["run"] for line in events(folder, "started")]
    assert starts.count("002-fail=1,level=1") == 2
    assert starts.count("003-fail=9,level=1") == 3
    last = result.stdout.splitlines()[-4]
    assert last == "failed 003-fail=9,level=1: exit code 1: it failed on purpose, time 3"


@pytest.mark.parametrize(
    ("code", "outcome", "starts", "exit_code"), [(2, "failed", 1, 1), (3, "diverged", 1, 0)]
)
def test_runs_that_would_fail_again_are_not_retried(tmp_path, code, outcome, starts, exit_code):
    parameters = {"fail": {"value": 9}, "code": {"value": code}}
    result = sweep(tmp_path, {**OBJECTIVE, "parameters": parameters})
    assert result.returncode == exit_code
    assert list(outcomes(tmp_path / "sweep").values()) == [outcome]
    assert len(events(tmp_path / "sweep", "started")) == starts
    assert f"{outcome} 001-code={code},fail=9: " in result.stdout.splitlines()[-3]


def test_a_sweep_that_only_fails_gives_up(tmp_path):
    parameters = {"fail": {"value": 9}, "level": {"values": list(range(20))}}
    result = sweep(tmp_path, {**OBJECTIVE, "parameters": parameters}, "--retries=0")
    assert result.returncode == 1
    assert list(outcomes(tmp_path / "sweep").values()) == ["failed"] * 3


def test_a_run_without_the_metric_failed(tmp_path):
    content = {**OBJECTIVE, "metric": {"name": "val/los"}, "run_cap": 1}
    result = sweep(tmp_path, content, "--retries=0")
    assert result.returncode == 1
    assert "without a value of val/los" in result.stdout


def test_any_program_can_be_swept(tmp_path):
    """Other than Python, and without flags for its parameters."""
    script = (
        'mkdir -p "${2#*=}" && echo "{\\"step\\": 1, \\"val/loss\\": $1, \\"a\\": \\"$A\\"}"'
        ' > "${2#*=}/metrics.jsonl"'
    )
    content = {
        **OBJECTIVE,
        "command": ["${env}", "A=${envvar:OF_A}", "sh", "-c", script, "sh", "0.5"],
        "run_cap": 1,
    }
    result = sweep(tmp_path, content, OF_A="b c")
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = run_folder.read_lines(tmp_path / "sweep/001-level=3/metrics.jsonl")
    assert line == {"step": 1, "val/loss": 0.5, "a": "b c"}


@pytest.mark.slow
@pytest.mark.parametrize("config", ["", '{"train": {"num_st', '{"train": 1}', "[" * 100_000])
def test_a_config_that_is_not_whole_does_not_end_the_sweep(tmp_path, config):
    """As by a program that writes it in place, and is looked at in the middle."""
    script = (
        'folder="${1#*=}"; mkdir -p "$folder"; printf %s "$CONFIG" > "$folder/config.json";'
        ' sleep 1; printf "%s\\n" "$LINE" > "$folder/metrics.jsonl"'
    )
    content = {**OBJECTIVE, "command": ["sh", "-c", script, "sh"], "run_cap": 1}
    line = '{"step": 1, "val/loss": 0.5}'
    result = sweep(tmp_path, content, CONFIG=config, LINE=line)
    assert result.returncode == 0, result.stdout + result.stderr
    assert events(tmp_path / "sweep", "ended")[0]["value"] == 0.5


def test_the_progress_is_what_can_be_read(tmp_path):
    progress = Progress(tmp_path, "val/loss")
    steps = []
    for config in ('{"train": {"num_', '{"train": {"num_steps": 20}}', "half"):
        (tmp_path / "config.json").write_text(config)
        steps.append(progress.read().num_steps)
    assert steps == [0, 20, 20]
    for lines, step, values in (
        ('{"step": 1, "val/loss": 3}\n{"step": 2, "val/loss": 2.5}\n{"st', 2, [3, 2.5]),
        ('{"step": 3, "val/loss": NaN}\n{"step": 4, "val/loss": "low"}\n', 4, []),
        ('{"val/loss": 1}\n[7]\n{"step": "x", "val/loss": 1' + "0" * 400 + "}\n", 0, [1]),
        ('{"step": 5, "val/loss": 2}\n\0\0\n{"step": 6, "val/loss": 1}\n', 5, [2]),
        ("[" * 100_000 + "\n", 0, []),
    ):
        (tmp_path / "metrics.jsonl").write_text(lines)
        progress = Progress(tmp_path, "val/loss").read()
        assert (progress.step, progress.values) == (step, values)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    assert Progress(tmp_path, "val/loss").read().values == []


def test_the_cores_are_shared():
    for count in (1, 2, 3, 5):
        cores = share_cores(count)
        assert len(cores) == count
        assert all(cores)
        assert set().union(*cores) == os.sched_getaffinity(0)


def test_a_worker_has_its_share_of_the_cores(tmp_path):
    sweep(tmp_path, OBJECTIVE, f"--workers={os.cpu_count()}")
    for log in (tmp_path / "sweep/logs").iterdir():
        assert json.loads(log.read_text().splitlines()[0])["cores"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "gpus", "own_fraction", "seen"),
    [
        (1, "0,1", None, {("0,1", None)}),
        (2, "0,1", None, {("0", None), ("1", None)}),
        (2, "2", None, {("2", "0.45")}),
        (2, "0", "0.2", {("0", "0.2")}),
        (2, "", None, {("", None)}),
    ],
)
def test_a_worker_has_its_share_of_the_gpus(
    workers, gpus, own_fraction, seen, tmp_path, monkeypatch
):
    """Without a GPU: the run reads the environment variables that JAX reads."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    if own_fraction:
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", own_fraction)
    sweep(tmp_path, OBJECTIVE, f"--workers={workers}")
    logs = [log.read_text().splitlines()[0] for log in (tmp_path / "sweep/logs").iterdir()]
    assert {tuple(json.loads(log)["gpus"]) for log in logs} == seen


@given(st.integers(1, 9), st.integers(0, 5))
def test_gpus_are_shared_evenly_and_never_more_than_filled(count, num_gpus):
    shares = share_gpus(count, [str(gpu) for gpu in range(num_gpus)])
    taken = Counter()
    for share in shares:
        for gpu in share.get("CUDA_VISIBLE_DEVICES", "").split(","):
            taken[gpu] += float(share.get(MEMORY, 1.0))
    assert len(shares) == count
    if count > 1 and num_gpus:
        assert set(taken) == {str(gpu) for gpu in range(num_gpus)}
        assert max(taken.values()) <= 1.0


@pytest.mark.slow
def test_hyperband_stops_real_processes(tmp_path):
    """One worker: each run is judged against all complete earlier ones, so outcomes are known.

    A run waits at the step that it is to be stopped at, or it could end before it is looked at.
    """
    levels = [2.0, 3.0, 1.0, 1.5, 0.5, 4.0]
    content = {
        **OBJECTIVE,
        "parameters": {"level": {"values": levels}, "steps": {"value": 6}},
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
        "command": ["${interpreter}", "${program}", "${args}", f"--holds={tmp_path}"],
    }
    hyperband, histories = Hyperband(min_iter=2, eta=2), {}
    for level in levels:
        history = histories[level] = []
        for step in range(1, 7):
            history.append(level + 1 / step)
            if hyperband.runs_to_stop({**histories, level: history}, [level]):
                (tmp_path / f"{level}-{step}").touch()
                break
    result = sweep(tmp_path, content)
    assert result.returncode == 0, result.stdout
    expected = ["finished" if len(history) == 6 else "stopped" for history in histories.values()]
    assert list(outcomes(tmp_path / "sweep").values()) == expected
    assert set(expected) == {"stopped", "finished"}
    for run_name, history in zip(outcomes(tmp_path / "sweep"), histories.values(), strict=True):
        lines = list(run_folder.read_lines(tmp_path / "sweep" / run_name / "metrics.jsonl"))
        assert len(lines) == len(history)


@pytest.mark.slow
def test_a_bayesian_sweep_repeats_exactly_with_any_timing(tmp_path):
    """The order in which runs end changes nothing."""
    made = []
    for name, pause in (("one", {"value": 0}), ("two", {"values": [0.0, 0.3]})):
        content = {
            **OBJECTIVE,
            "method": "bayes",
            "parameters": {
                "level": {"min": 0.0, "max": 4.0},
                "config.word": {"values": ["a", "b"]},
            },
            "command": [
                "${interpreter}",
                "${program}",
                "${args}",
                f"--pause={pause.get('value', 0.1)}",
            ],
        }
        (tmp_path / name).mkdir()
        result = sweep(tmp_path / name, content, "--count=14", "--workers=2", "--seed=5")
        assert result.returncode == 0, result.stdout
        proposed = events(tmp_path / name / "sweep", "proposed")
        made.append([line["parameters"] for line in proposed])
    assert made[0] == made[1]
    assert len({json.dumps(parameters) for parameters in made[0]}) == 14


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_is_sound(path):
    made, text = sweep_file.read(path)
    about = yaml.safe_load(text)
    # W&B shows them; runs without a sweep go to the same project.
    assert (about["project"], about["name"]) == (get_config().tracking.wandb_project, path.stem)
    assert about["description"].split("\n")[0].endswith("?")
    # Nats of different tokens can't be compared.
    assert made.metric.name == ("val/bits_per_byte" if path.stem == "vocabulary" else "val/loss")
    # Flat names, which W&B's agent passes on as flags.
    for parameter in made.parameters:
        assert parameter.name == "config" or parameter.name.startswith("config.")
    for word in ("${args}", command.RESUME, command.ONLINE):
        assert word in made.command
    # A user waits for no more; most runs of the stages' comparison are short.
    most = 192 if path.stem.startswith("compare_stages") else 72
    assert (made.run_cap or search.num_points(made)) <= most


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_printed_file_is_the_sweep_with_the_preset(path):
    made, text = sweep_file.read(path)
    small = sweep_file.with_preset(made, "smoke")
    printed = sweep_file.to_yaml(small, text)
    assert sweep_file.parse(yaml.safe_load(printed)) == small
    about = ("description", "project", "name", "metric", "method")
    assert all(yaml.safe_load(printed)[key] == yaml.safe_load(text)[key] for key in about)


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_point_of_every_sweep_is_a_config(path):
    made, _ = sweep_file.read(path)
    for number in range(1, (search.num_points(made) or 10) + 1):
        if made.method == "grid":
            swept = search.grid_point(made, number)
        else:
            swept = {one.name: one.inverse_cdf(number / 11) for one in made.parameters}
        # The command names an experiment that does not vary.
        named = [word for word in made.command if word.startswith("--config=")] or [""]
        experiment = swept.pop("config", named[0].removeprefix("--config="))
        experiment, _, preset = experiment.partition(":")
        config = runpy.run_path(str(ROOT / experiment))["get_config"](preset)
        config.update_from_flattened_dict(
            {name.removeprefix("config."): value for name, value in swept.items()}
        )
        check_config(config)


# One for each thing that a sweep file can vary; every point of all files is built above.
@pytest.mark.long
@pytest.mark.parametrize("name", ["compare_stages", "architecture", "vocabulary", "scaling"])
def test_the_first_run_of_a_sweep_trains_with_its_values(name, tmp_path):
    flags = ["--count=1", "--preset=smoke", f"--workdir={tmp_path / 'sweep'}"]
    result = run("sweeps/run.py", f"sweeps/{name}.yaml", *flags, WANDB_MODE="disabled")
    assert result.returncode == 0, result.stdout
    parameters = {
        line["run"]: line["parameters"] for line in events(tmp_path / "sweep", "proposed")
    }
    assert len(parameters) == 1
    for name, swept in parameters.items():
        config = run_folder.flatten(
            run_folder.read_json(tmp_path / "sweep" / name / "config.json"), "config."
        )
        for key, value in swept.items():
            assert key == "config" or config[key] == value
        assert config["config.train.num_steps"] == 20 or "config.train.num_steps" in swept
        kept = run_folder.read_json(tmp_path / "sweep" / name / "sweep.json")
        assert kept["parameters"] == swept


@pytest.mark.long
def test_wandb_files_runs_under_the_sweep_and_a_printed_command_repeats_one(tmp_path):
    content = {
        "program": "main.py",
        "method": "grid",
        "metric": {"name": "val/loss"},
        "parameters": {
            "config": {"value": "experiments/bigram.py:smoke"},
            "config.seed": {"values": [1, 2]},
        },
    }
    result = sweep(tmp_path, content, "--sweep_id=abcd1234")
    assert result.returncode == 0, result.stdout
    ids = {line["run"]: line["run_id"] for line in events(tmp_path / "sweep", "proposed")}
    for name, run_id in ids.items():
        folder = tmp_path / "sweep" / name
        (wandb,) = (folder / "wandb").glob("offline-run-*")
        told = subprocess.run(
            [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", wandb],
            capture_output=True,
            text=True,
            check=True,
        )
        records = [json.loads(line) for line in told.stdout.splitlines()]
        (record,) = [line["run"] for line in records if "run" in line]
        assert (record["sweep_id"], record["run_id"]) == ("abcd1234", run_id)
        assert record["display_name"] == f"bigram:smoke seed={name[-1]}"
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("best")]
    python, *words = shlex.split(line.partition(": ")[2])
    assert python == "python"
    again = run(*words, f"--workdir={tmp_path / 'again'}", WANDB_MODE="disabled")
    assert again.returncode == 0
    value = run_folder.read_json(tmp_path / "again/summary.json")["val/loss"]
    assert f"best val/loss {value:.4f}" in line


BAD_FILES = {
    "method": ({"method": "gird"}, "method is 'gird'"),
    "custom": ({"method": "custom"}, "method is 'custom'"),
    "no program": ({"program": None}, "program is missing"),
    "program": ({"program": "nowhere.py"}, "'nowhere.py' is not a file"),
    "unknown key": ({"paramters": {}}, "did you mean 'parameters'?"),
    "far key": ({"zzz": 1}, "expected one of program, method"),
    "launch": ({"job": "x"}, "'job' needs a W&B server"),
    "scheduler": ({"scheduler": {"engine": "ax"}}, "'scheduler' needs a W&B server"),
    "no parameters": ({"parameters": {}}, "parameters is empty"),
    "not a mapping": ({"parameters": {"level": 3}}, "'level' is 3: expected a mapping"),
    "infinite": ({"parameters": {"x": {"min": 0.0, "max": float("inf")}}}, "a finite number"),
    "no number": ({"parameters": {"x": {"min": float("nan"), "max": 1}}}, "a finite number up to"),
    "too wide": ({"parameters": {"x": {"min": 0, "max": 2**64}}}, "a finite number up to 2**53"),
    "date": ({"parameters": {"x": {"values": [datetime.date(2026, 1, 2)]}}}, "2026-01-02, which"),
    "time": ({"parameters": {"x": {"value": datetime.datetime(2026, 1, 2)}}}, "as a datetime"),
    "bytes": ({"parameters": {"x": {"values": [b"x"]}}}, "which YAML reads as a bytes"),
    "set": ({"parameters": {"x": {"values": [{1, 2}]}}}, "which YAML reads as a set"),
    "mapping": ({"parameters": {"x": {"values": [{"a": 1}]}}}, "which YAML reads as a dict"),
    "value": ({"parameters": {"x": {"values": [1.0, float("nan")]}}}, "expected a finite number"),
    "fine grid": (
        {"parameters": {"x": {"distribution": "q_uniform", "min": 0, "max": 9, "q": 1e-9}}},
        "has 9,000,000,000 values, from 0 to 9 by 1e-09: expected 1,000,000 at most; raise q",
    ),
    "wide grid": (
        {"parameters": {"x": {"min": 0, "max": 2**32 - 1}, "y": {"values": [1, 2]}}},
        "8,589,934,592 runs of a grid of 4,294,967,296 x 2 points: expected 10,000 at most",
    ),
    "metric of no run": (
        {"program": "main.py", "metric": {"name": "val_loss"}},
        "metric is 'val_loss', which no run of main.py measures: did you mean 'val/loss'?",
    ),
    "best metric": (
        {"program": "main.py", "metric": {"name": "best/val/loss"}},
        "metric is 'best/val/loss', which no run of main.py measures",
    ),
    "nested": ({"parameters": {"m": {"parameters": {"k": {"value": 1}}}}}, "flat, m.k"),
    "distribution": ({"parameters": {"x": {"distribution": "norml"}}}, "'norml': expected one of"),
    "nothing given": ({"parameters": {"x": {}}}, "distribution '': expected one of"),
    "surplus": ({"parameters": {"x": {"values": [1], "q": 1}}}, "has 'q', which distribution"),
    "lacking": ({"parameters": {"x": {"distribution": "uniform"}}}, "lacks 'min'"),
    "bounds": ({"parameters": {"x": {"min": 2, "max": 1}}}, "expected min below max"),
    "text": ({"parameters": {"x": {"min": "1e-3", "max": 1}}}, "write 1.0e-3"),
    "log of 0": (
        {"parameters": {"x": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
        "needs a positive number",
    ),
    "sigma": ({"parameters": {"x": {"distribution": "normal", "sigma": -1}}}, "sigma -1"),
    "whole": (
        {"parameters": {"x": {"distribution": "int_uniform", "min": 0.5, "max": 2}}},
        "int_uniform needs integers",
    ),
    "values": ({"parameters": {"x": {"values": 3}}}, "expected a list of at least one"),
    "shares": (
        {"parameters": {"x": {"values": [1, 2], "probabilities": [1]}}},
        "expected as many probabilities",
    ),
    "sum": (
        {"parameters": {"x": {"values": [1, 2], "probabilities": [0.5, 0.6]}}},
        "expected a sum of 1",
    ),
    "endless grid": (
        {"parameters": {"x": {"min": 0.0, "max": 1.0}}},
        "infinitely many values",
    ),
    "endless search": ({"method": "random"}, "give --count, or run_cap"),
    "bayes": ({"method": "bayes", "metric": None}, "bayes needs a metric"),
    "metric": ({"metric": "loss"}, "expected name, such as val/loss"),
    "goal": ({"metric": {"name": "a", "goal": "min"}}, "expected minimize or maximize"),
    "target": ({"metric": {"name": "a", "target": "low"}}, "target 'low': expected a number"),
    "impute": ({"metric": {"name": "a", "impute": "best"}}, "without a server, expected worst"),
    "early": ({"early_terminate": {"type": "median"}}, "expected type: hyperband"),
    "bands": ({"early_terminate": {"type": "hyperband"}}, "needs min_iter, or max_iter and s"),
    "no bands": (
        {"early_terminate": {"type": "hyperband", "max_iter": 2, "s": 2}},
        "judges no run",
    ),
    "eta": ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "more than 1"),
    "min_iter": ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "at least 1"),
    "strict": (
        {"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": "no"}},
        "expected true or false",
    ),
    "early key": (
        {"early_terminate": {"type": "hyperband", "min_itr": 1}},
        "did you mean 'min_iter'?",
    ),
    "early metric": (
        {"metric": None, "early_terminate": {"type": "hyperband", "min_iter": 1}},
        "needs a metric to judge by",
    ),
    "run_cap": ({"run_cap": 0}, "run_cap is 0"),
    "command": ({"command": "python x.py"}, "expected a list of words"),
    "placeholder": ({"command": ["${python}", "${args}"]}, "${python}: expected one of"),
    "variable": ({"command": ["x", "${envvar:NOT_SET_HERE}"]}, "NOT_SET_HERE is not set"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_an_invalid_sweep_file_is_refused(name, tmp_path):
    """In one line, before anything is written; three of them in a process of its own."""
    change, message = BAD_FILES[name]
    content = {key: value for key, value in {**OBJECTIVE, **change}.items() if value is not None}
    path = write(tmp_path / "file.yaml", content)
    if name in ("method", "endless search", "placeholder"):
        result = sweep(tmp_path, content)
        assert_refused(result, message)
        assert not (tmp_path / "sweep").exists()
        return
    with pytest.raises(UserError) as refused:
        made, _ = sweep_file.read(path)
        command.build(made, {}, Path("x"))
        search.num_runs(made, 0)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"a: [", "can't be read as a sweep file"), (b"\xff", "can't be read"), (b"- a", "mapping")],
)
def test_a_file_without_a_sweep_is_refused(text, message, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=message):
        sweep_file.read(path)


@pytest.mark.slow
def test_wrong_flags_and_folders_are_refused(tmp_path):
    file = write(tmp_path / "file.yaml", OBJECTIVE)
    assert_refused(run("sweeps/run.py"), "expected one sweep file, not 0")
    assert_refused(run("sweeps/run.py", tmp_path / "none.yaml"), "No such file")
    assert_refused(run("sweeps/run.py", file, "--workers=0"), "--workers=0: 0 is not a positive")
    assert_refused(run("sweeps/run.py", file, "--retry=3"), "retry")
    assert_refused(run("sweeps/run.py", file, f"--workdir={file}"), "can't be written")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("x")
    assert_refused(run("sweeps/run.py", file, f"--workdir={full}"), "holds files but no sweep")


@pytest.mark.slow
def test_another_sweep_in_the_folder_is_refused(tmp_path):
    assert sweep(tmp_path, OBJECTIVE).returncode == 0
    other = {**OBJECTIVE, "parameters": {"level": {"values": [7]}}}
    assert_refused(sweep(tmp_path, other), "holds another sweep")
    assert_refused(sweep(tmp_path, OBJECTIVE, "--seed=3"), "with --seed=0: resume with that")


@pytest.mark.long
def test_a_command_is_filled_in_as_the_agent_does():
    """Compares with the client's own code; placeholders that it leaves in place are errors here."""
    from wandb.sdk.launch.sweeps import utils

    parameters = {"config.a": 1, "config.b": True, "config.c": False, "config.d": None, "e": "x y"}
    theirs = utils.create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in parameters.items()}}
    )
    for name in theirs.keys() - {"args_dict"}:
        content = {**OBJECTIVE, "command": ["run", f"${{{name}}}"]}
        ours = command.build(sweep_file.parse(content), parameters, Path("x"))
        assert ours == ["run", *theirs[name]], name


@pytest.mark.slow
def test_a_terminal_shows_a_live_table(tmp_path):
    """The last of three runs waits at its second step until the table shows it."""
    holds = tmp_path / "2.0-2"
    holds.touch()
    parameters = {**OBJECTIVE["parameters"], "steps": {"value": 4}}
    words = ["${interpreter}", "${program}", "${args}", f"--holds={tmp_path}"]
    content = {**OBJECTIVE, "parameters": parameters, "command": words}
    file = write(tmp_path / "file.yaml", content)
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (40, 120))
    process = subprocess.Popen(
        [sys.executable, "sweeps/run.py", file, f"--workdir={tmp_path / 'sweep'}"],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    screen = b""
    row = r"003-level=2\S* +running +2/4 +2\.5000 +0:\d\d:\d\d"
    best = r"002-level=1\S* +best +1\.2500"
    total = r"2 of 3 runs have ended, best val/loss 1\.2500 by\s+002\S+ \d:\d\d:\d\d left"
    # Reading fails when the last writer has closed the terminal.
    with contextlib.suppress(OSError):
        while received := os.read(terminal, 65536):
            screen += received
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode(errors="ignore"))
            if all(re.search(shown, text) for shown in (row, best, total)):
                holds.unlink(missing_ok=True)
    assert process.wait() == 0
    assert not holds.exists()


class Running:
    """Sweep in a process that can be killed."""

    def __init__(self, file, folder, *flags):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "sweeps/run.py", file, f"--workdir={folder}", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def descendants(self):
        """Returns (pid, start time) of all descendants of the sweep, W&B's processes too."""
        parents, starts = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(stat.parent.name)] = int(fields[1])
            starts[int(stat.parent.name)] = fields[19]
        found, new = set(), {self.process.pid}
        while new:
            new = {pid for pid, parent in parents.items() if parent in new} - found
            found |= new
        return {(pid, starts[pid]) for pid in found}

    def signal_run(self, name, number):
        """Sends a signal to the process of a run, which is the one that prints to its log."""
        log = self.folder / f"logs/{name}.log"
        (pid,) = [pid for pid in self.named("run") if Path(f"/proc/{pid}/fd/1").readlink() == log]
        os.kill(pid, number)

    def named(self, kind):
        """Returns the pids of the sweep, of the fork server, or of the runs."""
        servers = children(self.process.pid)
        return {
            "sweep": [self.process.pid],
            "server": servers,
            "run": [pid for server in servers for pid in children(server)],
        }[kind]


def children(pid):
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def is_alive(process):
    pid, started = process
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == started and fields[0] != "Z"


def none_is_alive(processes):
    return not any(map(is_alive, processes))


@pytest.mark.long
def test_kill_at_nine_random_moments(tmp_path):
    """SIGKILL of the sweep, its fork server or a run loses and repeats no finished run."""
    draw = random.Random(7)
    victims = ["sweep", "run", "server"] * 3
    draw.shuffle(victims)
    folder = tmp_path / "sweep"
    content = {
        "program": "main.py",
        "method": "grid",
        "parameters": {
            "config": {"value": "experiments/bigram.py:smoke"},
            "config.seed": {"values": list(range(12))},
        },
    }
    file = write(tmp_path / "file.yaml", content)
    records: dict[str, bytes] = {}
    running = Running(file, folder, "--workers=2", "--retries=30")
    for number, victim in enumerate(victims):
        until = time.monotonic() + draw.uniform(0.1, 1.5)
        # The runs outnumber the kills: on a fast machine each ended run brings a kill on.
        while time.monotonic() < until and len(outcomes(folder)) <= number:
            time.sleep(0.02)
        check_finished(folder, records)
        everything = kill_one(running, victim, draw)
        if victim == "sweep":
            running.process.communicate()
            # W&B's process of each run exits some time after its input ends.
            wait_until(partial(none_is_alive, everything))
            running = Running(file, folder, "--workers=2", "--retries=30")
    output, _ = running.process.communicate(timeout=OF_A_COMMAND)
    assert running.process.returncode == 0, output
    check_finished(folder, records)
    assert list(outcomes(folder).values()) == ["finished"] * 12
    ended = [line["run"] for line in events(folder, "ended")]
    assert len(ended) == len(set(ended)) == 12
    for name in ended:
        order = [line["event"] for line in events(folder) if line.get("run") == name]
        assert order.index("ended") == len(order) - 1, "it was started again"
        steps = [line["step"] for line in run_folder.read_lines(folder / name / "metrics.jsonl")]
        assert steps == [0, 5, 10, 15, 20]
        assert run_folder.read_json(folder / name / "summary.json")["status"] == "done"


def kill_one(running, victim, draw):
    """Kills one of the processes so named; returns what the sweep had for descendants before."""
    while True:
        assert running.process.poll() is None, "it has ended before the last kill"
        everything = running.descendants()
        if pids := running.named(victim):
            with contextlib.suppress(ProcessLookupError):  # It has just ended: another, then.
                os.kill(draw.choice(pids), signal.SIGKILL)
                return everything


def check_finished(folder, records):
    """Checks that runs that finished before are unchanged."""
    if not (folder / "runs.jsonl").exists():
        return
    for name in outcomes(folder):
        record = (folder / name / "metrics.jsonl").read_bytes()
        assert records.setdefault(name, record) == record


@pytest.mark.long
def test_a_stopped_sweep_stops_its_runs_and_resumes(tmp_path):
    """By SIGINT, then by SIGTERM, then to its end."""
    content = {
        "program": "main.py",
        "method": "grid",
        "parameters": {
            "config": {"value": "experiments/gpt2.py:smoke"},
            "config.train.num_steps": {"value": 1500},
            "config.eval.every_steps": {"value": 1500},
            "config.checkpoint.every_steps": {"value": 50},
            "config.seed": {"values": [0, 1]},
        },
        "command": ["${interpreter}", "${program}", "${args}", "--config.sample.every_steps=0"],
    }
    file, folder = write(tmp_path / "file.yaml", content), tmp_path / "sweep"
    before: dict[str, int] = {}

    def newest():
        """Returns the newest checkpoint of each run."""
        steps: dict[str, int] = {}
        for path in folder.glob("*/checkpoints/[0-9]*"):
            name = path.parents[1].name
            steps[name] = max(int(path.name), steps.get(name, 0))
        return steps

    def both_went_on():
        """Halts each run that did, so that neither ends while the other has not yet begun."""
        steps = newest()
        ahead = {name for name in steps if steps[name] > before.get(name, 0)}
        for name in ahead:
            running.signal_run(name, signal.SIGSTOP)
        return len(ahead) == 2

    for number, code in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
        running = Running(file, folder, "--workers=2")
        wait_until(both_went_on)
        everything = running.descendants()
        running.process.send_signal(number)
        for name in newest():
            running.signal_run(name, signal.SIGCONT)
        output, _ = running.process.communicate(timeout=PATIENCE)
        assert running.process.returncode == code, output
        assert "run the same command again to resume" in output
        wait_until(partial(none_is_alive, everything))
        assert outcomes(folder) == {}
        for name in {line["run"] for line in events(folder, "proposed")}:
            assert run_folder.read_json(folder / name / "summary.json")["status"] == "interrupted"
        before |= newest()
    again = run("sweeps/run.py", file, f"--workdir={folder}", "--workers=2")
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("resume ") == 2
    assert list(outcomes(folder).values()) == ["finished"] * 2
    for name in outcomes(folder):
        steps = [line["step"] for line in run_folder.read_lines(folder / name / "metrics.jsonl")]
        assert steps == sorted(set(steps)) and steps[-1] == 1500


@pytest.mark.slow
def test_a_second_runner_on_the_same_folder_is_refused(tmp_path):
    parameters = {"level": {"value": 1}, "pause": {"value": 3600}}
    file = write(tmp_path / "file.yaml", {**OBJECTIVE, "parameters": parameters})
    running = Running(file, tmp_path / "sweep")
    wait_until(lambda: events(tmp_path / "sweep", "started"))
    second = run("sweeps/run.py", file, f"--workdir={tmp_path / 'sweep'}")
    assert_refused(second, f"process {running.process.pid} runs this sweep already")
    running.process.kill()
    running.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "line"),
    [
        ("runs.jsonl", 1, "[1]"),
        ("runs.jsonl", 1, '{"event": "opened"}'),
        ("runs.jsonl", 2, "\0\0"),
        ("runs.jsonl", 2, "[1]"),
        ("runs.jsonl", 2, '{"event": "proposed", "run": "001-level=3"}'),
        ("runs.jsonl", 3, '{"event": "started", "run": "nowhere"}'),
        pytest.param("runs.jsonl", 3, "[" * 100_000, id="too deep"),
        ("sweep.yaml", 1, "{"),
        ("sweep.yaml", 1, None),
    ],
)
def test_a_damaged_folder_is_one_line_and_can_be_mended(tmp_path, name, number, line):
    content = {**OBJECTIVE, "run_cap": 1}
    assert sweep(tmp_path, content).returncode == 0
    path = tmp_path / "sweep" / name
    before = path.read_text().splitlines(keepends=True)
    if line is None:
        path.unlink()
    else:
        path.write_text("".join([*before[: number - 1], line + "\n", *before[number:]]))
    result = sweep(tmp_path, content)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    where = f"{path}, line {number}" if name == "runs.jsonl" else str(path)
    assert result.stderr.startswith(f"error: {where} can't be read: ")
    # As the message says.
    path.write_text("".join(before[: number - 1] if name == "runs.jsonl" else before))
    assert sweep(tmp_path, content).returncode == 0
    assert outcomes(tmp_path / "sweep") == {"001-level=3": "finished"}


def test_a_truncated_journal_is_resumed(tmp_path):
    """The events before the unfinished last line decide."""
    sweep(tmp_path, OBJECTIVE)
    path = tmp_path / "sweep/runs.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:10])
    again = sweep(tmp_path, OBJECTIVE)
    assert again.returncode == 0
    assert list(outcomes(tmp_path / "sweep").values()) == ["finished"] * 3
