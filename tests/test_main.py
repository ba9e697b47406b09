"""Tests of the commands main.py, generate.py and evaluate.py, as a user runs them."""

import json
import re
import subprocess
import sys

import pytest

import harness
import run_folder
from experiments import default, gpt2
from input_pipeline import corpus
from tests.command import OF_A_COMMAND, PATIENCE, ROOT, assert_refused
from tests.forked import run
from tests.wandb_server import Server

BIGRAM = "--config=experiments/bigram.py:smoke"
QUIET = "--config.tracking.wandb_mode=disabled"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished run of the gpt2 stage, and the result of its command."""
    workdir = tmp_path_factory.mktemp("main") / "run"
    result = run("main.py", "--config=experiments/gpt2.py:smoke", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result


@pytest.mark.long
def test_a_run_prints_plain_lines_where_there_is_no_terminal(finished):
    _, result = finished
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert re.search(r"^step 20/20 .*val loss \d\.\d+", result.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_wrong_flag_is_one_line_and_exit_code_2(tmp_path):
    """Runs a new process; test_bad_input.py has the other mistakes."""
    result = run("main.py", BIGRAM, "--config.train.num_step=9", f"--workdir={tmp_path / 'run'}")
    assert_refused(result, "no config key 'train.num_step': did you mean 'train.num_steps'?")
    assert not (tmp_path / "run").exists()


NOT_BEFORE_THE_FLAGS = [["--help"], ["--config.modle.name=x", BIGRAM], [], ["--list"]]


@pytest.mark.parametrize("flags", NOT_BEFORE_THE_FLAGS)
def test_flags_are_checked_before_jax_is_imported(flags):
    command = [sys.executable, "-X", "importtime", "main.py", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == {"--help": 1, "--list": 0}.get("".join(flags), 2)
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", result.stderr, re.MULTILINE))
    assert "ml_collections" in imported
    assert not imported & {"jax", "numpy", "flax", "optax", "wandb", "train"}


def test_alone_it_lists_experiments_and_presets():
    result = run("main.py")
    assert result.returncode == 2
    assert result.stderr == (
        "error: --config is missing: name an experiment, python main.py --config=gpt2:smoke; "
        "--list describes each\n"
    )
    lines = dict(line.split(": ") for line in result.stdout.splitlines())
    assert [*lines][: len(default.LADDER)] == list(default.LADDER)
    assert "smoke, tokens-0.25M" in lines["bigram"]
    assert set(gpt2.PRESETS) <= set(lines["gpt2"].split(", "))


def test_the_list_has_a_line_for_each_experiment_and_preset():
    lines = run("main.py", "--list").stdout.splitlines()
    named = [line.strip().split(": ")[0] for line in lines]
    assert len(set(named)) == len(named)
    assert {*default.LADDER, *(f"gpt2:{preset}" for preset in gpt2.PRESETS)} <= set(named)
    assert {"gpt2:width-<n>", "self_attention:flops-<budget>-<optimizer>"} <= set(named)
    assert "  gpt2:rotary: model.positions=rotary" in lines


@pytest.mark.long
def test_an_experiment_has_a_name_in_any_folder(tmp_path):
    """The second starts within the same second or not; their default folders differ."""
    command = [sys.executable, str(ROOT / "main.py"), QUIET, "--config.sample.num_tokens=0"]
    started = [
        subprocess.Popen([*command, *words], cwd=tmp_path, stderr=subprocess.PIPE)
        for words in (["--config=bigram:smoke"], ["--config.seed=1", "--config", "bigram:smoke"])
    ]
    for process in started:
        assert process.communicate(timeout=OF_A_COMMAND)[1] == b""
        assert process.returncode == 0
    folders = sorted((tmp_path / "runs").iterdir())
    configs = [run_folder.read_json(folder / "config.json") for folder in folders]
    assert sorted(config["seed"] for config in configs) == [0, 1]
    assert {config["tracking"]["experiment"] for config in configs} == {"bigram:smoke"}
    assert all(re.fullmatch(r"bigram-\d{8}-\d{6}(-2)?", folder.name) for folder in folders)


@pytest.mark.slow
def test_a_sweep_in_another_folder_says_where_it_belongs(tmp_path):
    command = [sys.executable, str(ROOT / "sweeps/run.py"), str(ROOT / "sweeps/depth.yaml")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_refused(result, f"program 'main.py' is not a file in {tmp_path}: cd {ROOT} first")


@pytest.mark.long
def test_a_diverging_run_exits_with_3_and_alerts_who_watches_it_in_wandb(tmp_path):
    flags = ["--config.optimizer.learning_rate=1e30", "--config.optimizer.grad_clip_norm=0.0"]
    flags += ["--config.optimizer.warmup_steps=0", f"--workdir={tmp_path / 'run'}"]
    with Server() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40, "WANDB_MODE": "online"}
        result = run("main.py", "--config=experiments/gpt2.py:smoke", *flags, **online)
    assert result.returncode == 3
    message = re.search(
        r"^error: (\S+ is \S+ at step \d+: training diverged; the first layer whose gradient.*)\n",
        result.stderr,
    )
    (alert,) = [sent for name, sent in server.operations if name == "NotifyScriptableRunAlert"]
    assert (alert["severity"], alert["title"]) == ("ERROR", "training diverged")
    assert alert["text"] == message[1] and "try a smaller --config.optimizer" in message[1]


@pytest.mark.long
def test_text_goes_to_standard_output_and_nothing_else(finished):
    workdir, _ = finished
    result = run(
        "generate.py", f"--workdir={workdir}", "--prompt=ROMEO:", "--num_tokens=50", "--seed=3"
    )
    assert result.returncode == 0
    assert result.stdout.startswith("ROMEO:")
    assert len(result.stdout) == len("ROMEO:") + 50 + 1
    assert "step 20" in result.stderr


@pytest.mark.long
def test_samples_follow_each_other_and_repeat_with_their_seed(finished):
    workdir, _ = finished
    flags = [f"--workdir={workdir}", "--prompt=A", "--num_tokens=20", "--top_k=9", "--top_p=0.9"]
    one = run("generate.py", *flags)
    three = run("generate.py", *flags, "--num_samples=3")
    assert three.stdout.startswith(one.stdout)
    assert len(three.stdout) == 3 * (1 + 20 + 1)
    assert run("generate.py", *flags, "--num_samples=3").stdout == three.stdout
    assert run("generate.py", *flags, "--seed=1").stdout != one.stdout


@pytest.mark.long
def test_a_closed_pipe_ends_it_quietly(finished):
    """While it writes: a pipe does not hold so many tokens."""
    command = [sys.executable, "generate.py", f"--workdir={finished[0]}", "--num_tokens=1000000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=PATIENCE) == 128 + 13
    assert errors.count("\n") == 1 and "step 20" in errors


@pytest.mark.long
def test_greedy_text_does_not_depend_on_the_seed(finished):
    workdir, _ = finished
    flags = [f"--workdir={workdir}", "--num_tokens=20", "--temperature=0"]
    assert run("generate.py", *flags).stdout == run("generate.py", *flags, "--seed=5").stdout


@pytest.mark.long
@pytest.mark.parametrize("command", ["generate.py", "evaluate.py"])
def test_a_folder_without_a_run_is_refused(command, tmp_path):
    assert_refused(run(command, f"--workdir={tmp_path}"), "is not a run folder")
    assert_refused(run(command, f"--workdir={tmp_path / 'none'}"), "is not a run folder")
    assert_refused(run(command), "flag --workdir")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
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


@pytest.mark.long
def test_evaluate_takes_any_text(finished, tmp_path):
    """The validation split in a file, and cut into records, has the scores of the split."""
    workdir, _ = finished
    data = corpus.load(harness.open_run(workdir).config.data)
    val = data.tokenizer.decode(data.val)
    (tmp_path / "val.txt").write_text(val)
    with open(tmp_path / "val.jsonl", "w") as file:
        for record in val.split("\n"):
            print(json.dumps({"n": 1, "line": record + "\n" * (not record)}), file=file)
    summary = run_folder.read_json(workdir / "summary.json")
    expected = {key: value for key, value in summary.items() if key.startswith("val/")}
    for flags in (["--text=val.txt"], ["--text=val.jsonl", "--field=line"]):
        flags[0] = flags[0].replace("=", f"={tmp_path}/")
        result = run("evaluate.py", f"--workdir={workdir}", *flags)
        assert result.returncode == 0, result.stderr
        scores = json.loads(result.stdout)
        assert scores.pop("step") == 20
        scores = {key.replace("text/", "val/"): value for key, value in scores.items()}
        if "jsonl" in flags[0]:
            assert scores == pytest.approx(expected, rel=1e-3)
        else:
            assert scores == expected


@pytest.mark.slow
def test_a_variable_that_is_neither_true_nor_false_is_refused(tmp_path):
    flags = ["--config=experiments/gpt2.py:smoke", f"--workdir={tmp_path / 'run'}"]
    result = run("main.py", *flags, FAST_BFLOAT16="yes")
    assert_refused(result, "FAST_BFLOAT16='yes': expected 'true' or 'false', or unset it")
    assert not (tmp_path / "run").exists()
