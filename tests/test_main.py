"""The commands as a user runs them: main.py, generate.py and evaluate.py, and what they refuse."""

import json
import re
import subprocess
import sys

import pytest

from tests.command import ROOT, assert_refused, run
from tracking import run_folder

BIGRAM = "--config=experiments/bigram.py:smoke"
QUIET = "--config.tracking.wandb_mode=disabled"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the gpt2 stage."""
    workdir = tmp_path_factory.mktemp("main") / "run"
    result = run("main.py", "--config=experiments/gpt2.py:smoke", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_a_run_prints_plain_lines_where_there_is_no_terminal(finished):
    _, result = finished
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert re.search(r"^step 20/20 .*val loss \d\.\d+", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "flag --config"),
        (["--config=experiments/gpt3.py"], "--config=experiments/gpt3.py is not a file; here th"),
        (["--config=experiments/gpt3.py", "--config.seed=1"], "No such file or directory: 'exper"),
        (["--config=experiments/bigram.py:tiny"], "unknown preset 'tiny': this experiment has :s"),
        ([BIGRAM, "--wrokdir=x"], "Unknown command line flag 'wrokdir'. Did you mean: workdir ?"),
        ([BIGRAM, "--config.train.num_step=9"], "no config key 'num_step': did you mean 'num_st"),
        ([BIGRAM, "--config.trian.num_steps=9"], "no config key 'trian': did you mean 'train'?"),
        ([BIGRAM, "--config.zebra=9"], "no config key 'zebra': see experiments/default.py"),
        ([BIGRAM, "--config.train.num_steps=ten"], "--config.train.num_steps=ten: invalid liter"),
        ([BIGRAM, "--config.train.num_steps=1.5"], "--config.train.num_steps=1.5: invalid liter"),
        ([BIGRAM, "--config.checkpoint.resume=maybe"], "--config.checkpoint.resume=maybe"),
        ([BIGRAM, "--config.train=9"], "--config.train=9: Failed to parse"),
        ([BIGRAM, "runs/x"], "unexpected argument 'runs/x': every option is a flag, --name=value"),
        ([BIGRAM, "--config.model.num_heads=4"], "num_heads=4: bigram has none; leave it at 0"),
        (
            ["--config=experiments/gpt2.py:smoke", "--config.model.num_heads=3"],
            "config.model.embed_dim=16 is not divisible by config.model.num_heads=3",
        ),
        ([BIGRAM, "--config.model.name=rnn"], "config.model.name='rnn' is none of bigram, self_"),
        ([BIGRAM, "--config.data.name=wikipedia"], "unknown data set 'wikipedia'"),
        ([BIGRAM, "--config.data.tokenizer=bytes"], "unknown tokenizer 'bytes'"),
        ([BIGRAM, "--config.optimizer.name=sgd"], "config.optimizer.name='sgd'"),
        ([BIGRAM, "--config.train.num_steps=0"], "config.train.num_steps=0: expected 1 or more"),
        ([BIGRAM, "--config.tracking.wandb_mode=on"], "config.tracking.wandb_mode is 'on'"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(flags, message, tmp_path):
    workdir = tmp_path / "run"
    assert_refused(run("main.py", *flags, f"--workdir={workdir}"), message)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"caf\xe9 noir " * 50, "byte 3"),
        (b"too short for a context of 8"[:8], "context_length"),
    ],
    ids=["empty", "not UTF-8", "shorter than the context"],
)
def test_a_bad_text_is_one_line_and_exit_code_2(content, message, tmp_path):
    (tmp_path / "text.txt").write_bytes(content)
    text = ["--config.data.name=text", f"--config.data.path={tmp_path / 'text.txt'}"]
    result = run("main.py", BIGRAM, *text, f"--workdir={tmp_path / 'run'}")
    assert_refused(result, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_here", "line 1: ModuleNotFoundError: No module named 'nothing_here'"),
        ("def get_config(:", "line 1"),
        (
            "from experiments import default\n"
            "def get_config(preset=''):\n"
            "    config = default.get_config()\n"
            "    config.learning_rat = 1.0\n",
            'line 4: AttributeError: Key "learning_rat" does not exist',
        ),
    ],
)
def test_a_broken_experiment_is_one_line_that_says_where(code, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(code)
    result = run("main.py", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert_refused(result, message)
    assert "mine.py" in result.stderr


def test_a_used_workdir_is_refused_and_left_as_it_was(finished):
    workdir, _ = finished
    before = {path: path.read_bytes() for path in workdir.glob("*.json*")}
    result = run("main.py", "--config=experiments/gpt2.py:smoke", f"--workdir={workdir}")
    assert_refused(result, "already holds a run")
    assert before == {path: path.read_bytes() for path in workdir.glob("*.json*")}


def test_a_diverging_run_exits_with_3(tmp_path):
    flags = ["--config.optimizer.learning_rate=1e30", "--config.optimizer.grad_clip_norm=0.0"]
    flags += ["--config.optimizer.warmup_steps=0", QUIET, f"--workdir={tmp_path / 'run'}"]
    result = run("main.py", "--config=experiments/gpt2.py:smoke", *flags)
    assert result.returncode == 3
    assert re.search(r"^error: \S+ is \S+ at step \d+: training diverged", result.stderr)


def test_text_goes_to_standard_output_and_nothing_else(finished):
    workdir, _ = finished
    result = run(
        "generate.py", f"--workdir={workdir}", "--prompt=ROMEO:", "--num_tokens=50", "--seed=3"
    )
    assert result.returncode == 0
    assert result.stdout.startswith("ROMEO:")
    assert len(result.stdout) == len("ROMEO:") + 50 + 1
    assert "step 20" in result.stderr


def test_samples_follow_each_other_and_repeat_with_their_seed(finished):
    workdir, _ = finished
    flags = [f"--workdir={workdir}", "--prompt=A", "--num_tokens=20", "--top_k=9", "--top_p=0.9"]
    one = run("generate.py", *flags)
    three = run("generate.py", *flags, "--num_samples=3")
    assert three.stdout.startswith(one.stdout)
    assert len(three.stdout) == 3 * (1 + 20 + 1)
    assert run("generate.py", *flags, "--num_samples=3").stdout == three.stdout
    assert run("generate.py", *flags, "--seed=1").stdout != one.stdout


def test_a_reader_that_has_enough_ends_it_quietly(finished):
    command = [sys.executable, "generate.py", f"--workdir={finished[0]}", "--num_tokens=4000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=60) == 128 + 13
    assert errors.count("\n") == 1 and "step 20" in errors


def test_greedy_text_does_not_depend_on_the_seed(finished):
    workdir, _ = finished
    flags = [f"--workdir={workdir}", "--num_tokens=20", "--temperature=0"]
    assert run("generate.py", *flags).stdout == run("generate.py", *flags, "--seed=5").stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt=é"], "character 'é' at position 0"),
        (["--prompt="], "--prompt is empty"),
        (["--temperature=-1"], "--temperature=-1.0: expected 0 or more"),
        (["--temperature=nan"], "--temperature=nan: expected 0 or more"),
        (["--top_p=0"], "--top_p=0.0: expected above 0 and at most 1"),
        (["--top_k=-1"], "--top_k=-1: expected 0 (no limit) or more"),
        (["--num_tokens=0"], "--num_tokens=0: expected 1 or more"),
        (["--num_samples=0"], "--num_samples=0: expected 1 or more"),
        (["--checkpoint=7"], "checkpoint '7' is none of: best, latest, 10, 20"),
    ],
)
def test_generate_refuses_in_one_line(flags, message, finished):
    assert_refused(run("generate.py", f"--workdir={finished[0]}", *flags), message)


@pytest.mark.parametrize("command", ["generate.py", "evaluate.py"])
def test_a_folder_without_a_run_is_refused(command, tmp_path):
    assert_refused(run(command, f"--workdir={tmp_path}"), "is not a run folder")
    assert_refused(run(command, f"--workdir={tmp_path / 'none'}"), "is not a run folder")
    assert_refused(run(command), "flag --workdir")
    assert list(tmp_path.iterdir()) == []


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
