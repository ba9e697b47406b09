"""Tests of the commands main.py, generate.py and evaluate.py, as a user runs them."""

import json
import re
import subprocess
import sys

import pytest

import run_folder
from tests.command import ROOT, assert_refused, run

BIGRAM = "--config=experiments/bigram.py:smoke"
QUIET = "--config.tracking.wandb_mode=disabled"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished run of the gpt2 stage, and the result of its command."""
    workdir = tmp_path_factory.mktemp("main") / "run"
    result = run("main.py", "--config=experiments/gpt2.py:smoke", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_a_run_prints_plain_lines_where_there_is_no_terminal(finished):
    _, result = finished
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert re.search(r"^step 20/20 .*val loss \d\.\d+", result.stdout, re.MULTILINE)


def test_a_wrong_flag_is_one_line_and_exit_code_2(tmp_path):
    """Runs a new process; test_bad_input.py has the other mistakes."""
    result = run("main.py", BIGRAM, "--config.train.num_step=9", f"--workdir={tmp_path / 'run'}")
    assert_refused(result, "no config key 'train.num_step': did you mean 'train.num_steps'?")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--help"], ["--config.modle.name=x", BIGRAM]])
def test_flags_are_checked_before_jax_is_imported(flags):
    command = [sys.executable, "-X", "importtime", "main.py", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode in (1, 2)
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", result.stderr, re.MULTILINE))
    assert "ml_collections" in imported
    assert not imported & {"jax", "numpy", "flax", "optax", "wandb", "train"}


@pytest.mark.slow
def test_a_diverging_run_exits_with_3(tmp_path):
    flags = ["--config.optimizer.learning_rate=1e30", "--config.optimizer.grad_clip_norm=0.0"]
    flags += ["--config.optimizer.warmup_steps=0", QUIET, f"--workdir={tmp_path / 'run'}"]
    result = run("main.py", "--config=experiments/gpt2.py:smoke", *flags)
    assert result.returncode == 3
    assert re.search(
        r"^error: \S+ is \S+ at step \d+: training diverged; the first layer whose gradient",
        result.stderr,
    )


@pytest.mark.slow
def test_text_goes_to_standard_output_and_nothing_else(finished):
    workdir, _ = finished
    result = run(
        "generate.py", f"--workdir={workdir}", "--prompt=ROMEO:", "--num_tokens=50", "--seed=3"
    )
    assert result.returncode == 0
    assert result.stdout.startswith("ROMEO:")
    assert len(result.stdout) == len("ROMEO:") + 50 + 1
    assert "step 20" in result.stderr


@pytest.mark.slow
def test_samples_follow_each_other_and_repeat_with_their_seed(finished):
    workdir, _ = finished
    flags = [f"--workdir={workdir}", "--prompt=A", "--num_tokens=20", "--top_k=9", "--top_p=0.9"]
    one = run("generate.py", *flags)
    three = run("generate.py", *flags, "--num_samples=3")
    assert three.stdout.startswith(one.stdout)
    assert len(three.stdout) == 3 * (1 + 20 + 1)
    assert run("generate.py", *flags, "--num_samples=3").stdout == three.stdout
    assert run("generate.py", *flags, "--seed=1").stdout != one.stdout


def test_a_closed_pipe_ends_it_quietly(finished):
    command = [sys.executable, "generate.py", f"--workdir={finished[0]}", "--num_tokens=4000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=60) == 128 + 13
    assert errors.count("\n") == 1 and "step 20" in errors


@pytest.mark.slow
def test_greedy_text_does_not_depend_on_the_seed(finished):
    workdir, _ = finished
    flags = [f"--workdir={workdir}", "--num_tokens=20", "--temperature=0"]
    assert run("generate.py", *flags).stdout == run("generate.py", *flags, "--seed=5").stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate.py", "evaluate.py"])
def test_a_folder_without_a_run_is_refused(command, tmp_path):
    assert_refused(run(command, f"--workdir={tmp_path}"), "is not a run folder")
    assert_refused(run(command, f"--workdir={tmp_path / 'none'}"), "is not a run folder")
    assert_refused(run(command), "flag --workdir")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_evaluate_repeats_the_numbers_of_the_run(finished):
    workdir, _ = finished
    result = run("evaluate.py", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    summary = run_folder.read_json(workdir / "summary.json")
    expected = {key: value for key, value in summary.items() if key.startswith(("val/", "step"))}
    assert json.loads(result.stdout) == pytest.approx(expected)
    first = json.loads(run("evaluate.py", f"--workdir={workdir}", "--checkpoint=10").stdout)
    lines = {line["step"]: line for line in run_folder.read_lines(workdir / "metrics.jsonl")}
    assert first["val/loss"] == pytest.approx(lines[10]["val/loss"])
    train = json.loads(run("evaluate.py", f"--workdir={workdir}", "--split=train").stdout)
    assert set(train) == {"step", "train/loss", "train/perplexity", "train/bits_per_byte"}


def test_a_variable_that_is_neither_true_nor_false_is_refused(tmp_path):
    flags = ["--config=experiments/gpt2.py:smoke", f"--workdir={tmp_path / 'run'}"]
    result = run("main.py", *flags, FAST_BFLOAT16="yes")
    assert_refused(result, "FAST_BFLOAT16='yes': expected 'true' or 'false', or unset it")
    assert not (tmp_path / "run").exists()
