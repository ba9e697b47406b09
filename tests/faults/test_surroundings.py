"""Tests of the environment of a run: clocks, versions, secrets, terminals, hostile text."""

import ast
import json
import os
import pty
import shutil
import subprocess
import sys

import pytest

import run_folder
from tests import forked
from tests.command import ROOT, run
from tests.faults.harness import lines
from tests.test_house import PRODUCT, imports, name

BIGRAM = "--config=experiments/bigram.py:smoke"
RESUME = "--config.checkpoint.resume=true"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished run and its report, made with secrets in the environment."""
    workdir = tmp_path_factory.mktemp("surroundings") / "run"
    secrets = {"WANDB_API_KEY": "k3y" * 13 + "k", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}
    result = run("main.py", BIGRAM, f"--workdir={workdir}", **secrets)
    assert result.returncode == 0, result.stderr
    report = run("report.py", workdir, f"--output={workdir / 'report.html'}", **secrets)
    assert report.returncode == 0, report.stderr
    (workdir / "printed").write_text(result.stdout + result.stderr + report.stdout + report.stderr)
    return workdir


@pytest.mark.long
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


@pytest.mark.long
def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, finished):
    """Every reading of Python's clock is an hour before the last one."""
    (tmp_path / "sitecustomize.py").write_text(BACKWARDS)
    flags = [BIGRAM, f"--workdir={tmp_path / 'run'}"]
    result = run("main.py", *flags, PYTHONPATH=str(tmp_path), WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    assert lines(tmp_path / "run", "metrics.jsonl") == lines(finished, "metrics.jsonl")
    seconds = [line["seconds"] for line in run_folder.read_lines(tmp_path / "run/metrics.jsonl")]
    assert seconds == sorted(seconds) and seconds[-1] > 0


@pytest.mark.long
def test_resuming_with_other_versions_warns_and_records_both(tmp_path, finished):
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
    # With the same versions there is no warning.
    again = run("main.py", *flags[:-1], "--config.train.num_steps=40", WANDB_MODE="disabled")
    assert "warning" not in again.stdout
    assert len(run_folder.read_json(tmp_path / "run/environment.json")["before"]) == 2


@pytest.mark.long
def test_escape_sequences_are_escaped_on_a_terminal_and_exact_elsewhere(tmp_path):
    """Trains a model on escape sequences that set the title and clear the screen."""
    hostile = "\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>\n"
    (tmp_path / "text.txt").write_text(hostile * 200)
    flags = ["--config.data.name=text", f"--config.data.path={tmp_path / 'text.txt'}"]
    flags += ["--config=experiments/bigram.py:smoke", "--config.sample.num_tokens=300"]
    flags += ["--config.optimizer.learning_rate=0.5", "--config.train.num_steps=60"]
    result = forked.run("main.py", *flags, f"--workdir={tmp_path / 'run'}", WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout and "\\x1b" in result.stdout
    (sample, *_) = [line["text"] for line in run_folder.read_lines(tmp_path / "run/samples.jsonl")][
        -1:
    ]
    assert "\x1b" in sample  # The record is exact.
    command = ["generate.py", f"--workdir={tmp_path / 'run'}", "--num_tokens=200", "--prompt=\x1b["]
    piped = forked.run(*command)
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
    refused = forked.run("generate.py", "--workdir=\x1b[2Jno")
    assert refused.returncode == 2
    assert "\x1b" not in refused.stderr and "\\x1b[2Jno" in refused.stderr
    report = forked.run("report.py", tmp_path / "run", f"--output={tmp_path / 'report.html'}")
    assert report.returncode == 0
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert(1)" not in page


def calls(path):
    """Yields the name and the keywords of each call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg for word in node.keywords}


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path):
    # Except for compiled programs, in the user's own cache, where JAX keeps some, too.
    if name(path) != "runtime/programs":
        assert not {module.split(".")[0] for module in imports(path)} & {
            *("pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib")
        }
    for function, keywords in calls(path):
        assert function not in ("eval", "exec", "os.system", "os.popen", "__import__"), function
        assert not keywords & {"shell", "allow_pickle"}, function
        # Durations come from a clock that can't be set.
        assert function not in ("time.time", "datetime.utcnow"), function


@pytest.mark.long
def test_the_files_of_a_run_are_json_and_numbers(finished):
    """No file can run code when it is read."""
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
