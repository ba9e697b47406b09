"""Tests of signals: the first saves, so that the run can be resumed; the second exits at once."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.numpy import load_file

import run_folder
from tests.command import ROOT, run
from tests.faults.harness import lines

# Long enough to be stopped in the middle on any machine; 7 divides no other number of steps.
FLAGS = [
    "--config=experiments/gpt2.py:smoke",
    "--config.train.steps_per_dispatch=7",
    "--config.train.log_every_steps=100",
    "--config.eval.every_steps=0",
    "--config.sample.every_steps=0",
]


def start(workdir, *flags, **environment):
    command = [sys.executable, "main.py", *FLAGS, f"--workdir={workdir}", *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "offline", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, words):
    seen = ""
    while words not in seen:
        line = process.stdout.readline()
        assert line, seen + process.stderr.read()
        seen += line
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_and_resumes_exactly(tmp_path, number, code):
    process = start(tmp_path / "run", "--config.train.num_steps=3000")
    wait_for(process, "step 100/")
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"{signal.Signals(number).name}: saving after the current updates" in output
    assert errors.count("\n") == 1 and "--config.checkpoint.resume=true" in errors
    step = int(errors.split("stopped at step ")[1].split(",")[0])
    assert [int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()] == [step]
    summary = run_folder.read_json(tmp_path / "run/summary.json")
    assert summary["status"] == "interrupted"
    # W&B's run is complete, too.
    assert "left out" not in output
    assert list((tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb"))

    more = ["--config.train.num_steps=3000", "--config.checkpoint.resume=true"]
    flags = [*FLAGS, *more, f"--workdir={tmp_path / 'run'}"]
    result = run("main.py", *flags, WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    whole = run(
        "main.py", *FLAGS, more[0], f"--workdir={tmp_path / 'whole'}", WANDB_MODE="disabled"
    )
    assert whole.returncode == 0, whole.stderr
    for name in ("params", "opt_state"):
        one, other = (
            load_file(tmp_path / folder / f"checkpoints/3000/{name}.safetensors")
            for folder in ("run", "whole")
        )
        assert {key: leaf.tobytes() for key, leaf in one.items()} == {
            key: leaf.tobytes() for key, leaf in other.items()
        }
    assert lines(tmp_path / "run", "metrics.jsonl") == lines(tmp_path / "whole", "metrics.jsonl")


@pytest.mark.slow
def test_a_second_signal_stops_at_once(tmp_path):
    # One dispatch takes many seconds, in which Python runs no signal handler.
    long = ["--config.train.steps_per_dispatch=10000", "--config.train.num_steps=1000000"]
    process = start(tmp_path / "run", *long, "--config.train.log_every_steps=1000000")
    wait_for(process, "sample at step 0")
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    wait_for(process, "a second signal stops without saving")
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 2
    assert process.returncode == 130
    assert errors == "stopped without saving; the last checkpoint is kept\n"


@pytest.mark.slow
def test_a_save_is_due_by_time(tmp_path):
    # Nothing but time saves: of the run above, which is the same, only the stop is saved.
    flags = ["--config.train.num_steps=1000000", "--config.checkpoint.every_minutes=0.01"]
    process = start(tmp_path / "run", *flags, WANDB_MODE="disabled")
    wait_for(process, "step 100/")
    folder, seen = tmp_path / "run/checkpoints", set()
    until = time.monotonic() + 30
    while len(seen) < 4 and time.monotonic() < until:
        seen |= {int(path.name) for path in folder.glob("[0-9]*")}
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert len(seen) >= 4


@pytest.mark.slow
def test_two_processes_do_not_share_a_folder_and_a_stale_lock_does_no_harm(tmp_path):
    process = start(tmp_path / "run", "--config.train.num_steps=1000000", WANDB_MODE="disabled")
    wait_for(process, "step 100/")
    resume = [*FLAGS, f"--workdir={tmp_path / 'run'}", "--config.checkpoint.resume=true"]
    second = run("main.py", *resume, "--config.train.num_steps=200", WANDB_MODE="disabled")
    assert second.returncode == 2
    assert f"process {process.pid} trains in it already; wait for it" in second.stderr
    assert second.stderr.count("\n") == 1
    assert process.poll() is None
    process.kill()
    process.communicate()
    # The file with its number is still there.
    assert (tmp_path / "run/.lock").read_text() == f"{process.pid}\n"
    third = run("main.py", *resume, "--config.train.num_steps=200", WANDB_MODE="disabled")
    assert third.returncode == 0, third.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "done"
