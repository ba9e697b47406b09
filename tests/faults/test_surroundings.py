"""What is around a run and not in its hands: clocks, versions, secrets, terminals, hostile text."""

import ast
import json
import os
import pty
import shutil
import subprocess
import sys

import pytest

import run_folder
from tests.command import ROOT, run
from tests.faults.harness import lines
from tests.test_house import PRODUCT, imports, name

BIGRAM = "--config=experiments/bigram.py:smoke"
RESUME = "--config.checkpoint.resume=true"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, made in an environment that holds secrets."""
    workdir = tmp_path_factory.mktemp("surroundings") / "run"
    secrets = {"WANDB_API_KEY": "k3y" * 13 + "k", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}
    result = run("main.py", BIGRAM, f"--workdir={workdir}", **secrets)
    assert result.returncode == 0, result.stderr
    report = run("report.py", workdir, f"--output={workdir / 'report.html'}", **secrets)
    assert report.returncode == 0, report.stderr
    (workdir / "printed").write_text(result.stdout + result.stderr + report.stdout + report.stderr)
    return workdir


def test_no_secret_reaches_the_run_folder_the_report_or_a_log(finished):
    for path in finished.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"k3yk3y" not in content and b"hunter2" not in content, path


BACKWARDS = """
import itertools, time
hours = itertools.count(time.time(), -3600)
time.time = lambda: next(hours)
time.strftime = lambda form, *_: "19700101-000000"
"""


@pytest.mark.slow
def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, finished):
    """Each look at the clock is an hour before the last one: as far as Python's go, all of them."""
    (tmp_path / "sitecustomize.py").write_text(BACKWARDS)
    flags = [BIGRAM, f"--workdir={tmp_path / 'run'}"]
    result = run("main.py", *flags, PYTHONPATH=str(tmp_path), WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    assert lines(tmp_path / "run", "metrics.jsonl") == lines(finished, "metrics.jsonl")
    seconds = [line["seconds"] for line in run_folder.read_lines(tmp_path / "run/metrics.jsonl")]
    assert seconds == sorted(seconds) and seconds[-1] > 0


def test_a_run_that_was_begun_by_other_versions_is_warned_of_and_both_are_kept(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    before = run_folder.read_json(tmp_path / "run/environment.json")
    run_folder.write_json(
        tmp_path / "run/environment.json", {**before, "git_commit": "0123abc", "jax": "0.0.1"}
    )
    flags = [BIGRAM, f"--workdir={tmp_path / 'run'}", RESUME, "--config.train.num_steps=30"]
    result = run("main.py", *flags, WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    (warning,) = [line for line in result.stdout.splitlines() if line.startswith("warning")]
    assert f"git_commit was 0123abc and is {before['git_commit']}" in warning
    assert f"jax was 0.0.1 and is {before['jax']}" in warning
    now = run_folder.read_json(tmp_path / "run/environment.json")
    assert [one["jax"] for one in now["before"]] == ["0.0.1"]
    # As the code was, nothing is said.
    again = run("main.py", *flags[:-1], "--config.train.num_steps=40", WANDB_MODE="disabled")
    assert "warning" not in again.stdout
    assert len(run_folder.read_json(tmp_path / "run/environment.json")["before"]) == 2


@pytest.mark.slow
def test_text_that_steers_a_terminal_is_spelled_out_on_one_and_exact_elsewhere(tmp_path):
    """A model that has learned escape sequences by heart: set the title, clear the screen."""
    hostile = "\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>\n"
    (tmp_path / "text.txt").write_text(hostile * 200)
    flags = ["--config.data.name=text", f"--config.data.path={tmp_path / 'text.txt'}"]
    flags += ["--config=experiments/bigram.py:smoke", "--config.sample.num_tokens=300"]
    flags += ["--config.optimizer.learning_rate=0.5", "--config.train.num_steps=60"]
    result = run("main.py", *flags, f"--workdir={tmp_path / 'run'}", WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout and "\\x1b" in result.stdout
    (sample, *_) = [line["text"] for line in run_folder.read_lines(tmp_path / "run/samples.jsonl")][
        -1:
    ]
    assert "\x1b" in sample  # The record is exact.
    command = ["generate.py", f"--workdir={tmp_path / 'run'}", "--num_tokens=200", "--prompt=\x1b["]
    piped = run(*command)
    assert "\x1b" in piped.stdout
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=inside, stderr=subprocess.PIPE
    )
    os.close(inside)
    shown = b""
    try:
        while block := os.read(terminal, 65536):
            shown += block
    except OSError:
        pass  # The other end is closed.
    assert process.wait() == 0, process.stderr.read()
    os.close(terminal)
    assert b"\x1b" not in shown and rb"\x1b[" in shown
    refused = run("generate.py", "--workdir=\x1b[2Jno")
    assert refused.returncode == 2
    assert "\x1b" not in refused.stderr and "\\x1b[2Jno" in refused.stderr
    report = run("report.py", tmp_path / "run", f"--output={tmp_path / 'report.html'}")
    assert report.returncode == 0
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert(1)" not in page


def calls(path):
    """Names of what a file calls: `eval`, `os.system`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg for word in node.keywords}


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path):
    # Compiled programs are: from the user's own cache, where JAX keeps what it runs, too.
    if name(path) != "runtime/programs":
        assert not {module.split(".")[0] for module in imports(path)} & {
            *("pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib")
        }
    for function, keywords in calls(path):
        assert function not in ("eval", "exec", "os.system", "os.popen", "__import__"), function
        assert not keywords & {"shell", "allow_pickle"}, function
        # Durations by a clock that nobody can set.
        assert function not in ("time.time", "datetime.utcnow"), function


def test_the_files_of_a_run_are_json_and_numbers(finished):
    """Nothing that a reader would have to trust."""
    kinds = {
        path.suffix for path in finished.rglob("*") if path.is_file() and "wandb" not in str(path)
    }
    assert kinds <= {".json", ".jsonl", ".safetensors", ".html", ""}
    for path in finished.glob("checkpoints/*/*.safetensors"):
        header = path.read_bytes()[8:]
        described = json.loads(header[: int.from_bytes(path.read_bytes()[:8], "little")])
        assert all(
            set(tensor) == {"dtype", "shape", "data_offsets"} for tensor in described.values()
        )
