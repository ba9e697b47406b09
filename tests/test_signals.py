"""Tests of signals: the first saves, so that the run can be resumed; the second exits at once."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from safetensors.numpy import load_file

import run_folder
from tests.command import PATIENCE, ROOT, wait_until
from tests.faults.harness import lines
from tests.forked import run

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


@pytest.mark.long
def test_a_run_stopped_by_each_signal_saves_and_resumes_exactly(tmp_path):
    """By SIGTERM, then by SIGINT, then to its end."""
    folder, more = tmp_path / "run", ["--config.train.num_steps=3000"]
    stopped_at = []
    for number, code in [(signal.SIGTERM, 143), (signal.SIGINT, 130)]:
        process = start(folder, *more)
        wait_for(process, "00/3000 ")
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, errors
        assert f"{signal.Signals(number).name}: saving after the current updates" in output
        assert errors.count("\n") == 1 and "--config.checkpoint.resume=true" in errors
        stopped_at.append(int(errors.split("stopped at step ")[1].split(",")[0]))
        steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
        assert steps == stopped_at
        assert run_folder.read_json(folder / "summary.json")["status"] == "interrupted"
        # W&B's run is complete, too.
        assert "left out" not in output
        assert len(list((folder / "wandb").glob("offline-run-*/run-*.wandb"))) == len(stopped_at)
        more = ["--config.train.num_steps=3000", "--config.checkpoint.resume=true"]
    assert 0 < stopped_at[0] < stopped_at[1] < 3000
    result = run("main.py", *FLAGS, *more, f"--workdir={folder}", WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    whole = run(
        "main.py", *FLAGS, more[0], f"--workdir={tmp_path / 'whole'}", WANDB_MODE="disabled"
    )
    assert whole.returncode == 0, whole.stderr
    for name in ("params", "opt_state"):
        one, other = (
            load_file(tmp_path / kept / f"checkpoints/3000/{name}.safetensors")
            for kept in ("run", "whole")
        )
        assert {key: leaf.tobytes() for key, leaf in one.items()} == {
            key: leaf.tobytes() for key, leaf in other.items()
        }
    assert lines(tmp_path / "run", "metrics.jsonl") == lines(tmp_path / "whole", "metrics.jsonl")


def wait_for_work(process):
    """Returns when a process has computed for another second, however long that takes."""
    worker = psutil.Process(process.pid)
    enough = sum(worker.cpu_times()[:2]) + 1
    wait_until(lambda: sum(worker.cpu_times()[:2]) > enough)
    assert process.poll() is None


@pytest.mark.long
def test_a_second_signal_stops_at_once(tmp_path):
    """In the middle of a dispatch of minutes, in which Python runs no signal handler."""
    keys = ("steps_per_dispatch", "num_steps", "log_every_steps")
    long = [*(f"--config.train.{key}=10000" for key in keys), "--config.train.batch_size=64"]
    process = start(tmp_path / "run", *long)
    wait_for(process, "step 0/")
    wait_for_work(process)
    process.send_signal(signal.SIGINT)
    wait_for(process, "a second signal stops without saving")
    wait_for_work(process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors == "stopped without saving; the last checkpoint is kept\n"
    # At its end the dispatch would have been logged and saved.
    assert [line["step"] for line in lines(tmp_path / "run", "metrics.jsonl")] == [0]
    assert not list(tmp_path.glob("run/checkpoints/*"))
    assert not (tmp_path / "run/summary.json").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "ending", "kept"),
    [
        ("compiling", "stopped before the first step: there was nothing to save", []),
        ("first update made", "stopped at step 1, which is saved", ["1"]),
    ],
)
def test_a_signal_at_the_start_trains_no_further(words, ending, kept, tmp_path):
    """While the step compiles, and while the fresh model is evaluated."""
    folder = tmp_path / "run"
    process = start(folder, XDG_CACHE_HOME=str(tmp_path / "cache"), WANDB_MODE="disabled")
    wait_for(process, words)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143 and ending in errors
    assert [path.name for path in folder.glob("checkpoints/*")] == kept
    recorded = [line["step"] for line in lines(folder, "metrics.jsonl")]
    assert recorded == ([0] if kept else [])


@pytest.mark.long
def test_a_save_is_due_by_time(tmp_path):
    # Nothing but time saves: of the run above, which is the same, only the stop is saved.
    flags = ["--config.train.num_steps=1000000", "--config.checkpoint.every_minutes=0.01"]
    process = start(tmp_path / "run", *flags, WANDB_MODE="disabled")
    wait_for(process, "step 100/")
    folder, seen = tmp_path / "run/checkpoints", set()

    def four_were_there():
        seen.update(int(path.name) for path in folder.glob("[0-9]*"))
        return len(seen) >= 4

    wait_until(four_were_there)
    process.kill()
    process.communicate()


@pytest.mark.long
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
