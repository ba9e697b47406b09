"""A full disk, while logging and while saving.

The operating system limits the size of a file, so that the real write fails.
"""

import os
import subprocess
import sys

import pytest
from safetensors.numpy import load_file

import run_folder
from tests.command import ROOT, run
from tests.faults.harness import lines

FLAGS = ["--config.train.num_steps=600", "--config.train.log_every_steps=1"]
FLAGS += ["--config.eval.every_steps=100", "--config.sample.every_steps=0"]
BIGRAM = ["--config=experiments/bigram.py:smoke", *FLAGS]
RESUME = "--config.checkpoint.resume=true"


def run_limited(kib, *flags):
    """Runs main.py with a limit of `kib` KiB for each file."""
    command = f'ulimit -f {kib}; exec "$@"'
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "main.py", *flags],
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without the limit; it fills the token cache, which would exceed the limit, too."""
    workdir = tmp_path_factory.mktemp("disk") / "whole"
    result = run("main.py", *BIGRAM, f"--workdir={workdir}", WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.mark.long
def test_a_disk_that_is_full_while_logging(tmp_path, whole):
    result = run_limited(64, *BIGRAM, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert (
        "run can't be written ([Errno 27] File too large); what is saved is kept" in result.stderr
    )
    assert "make room and resume with --config.checkpoint.resume=true" in result.stderr
    assert (tmp_path / "run/metrics.jsonl").stat().st_size == 64 * 1024
    # Resumed without the limit it equals a run that never failed.
    flags = [*BIGRAM, f"--workdir={tmp_path / 'run'}", RESUME]
    result = run("main.py", *flags, WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    record = lines(tmp_path / "run", "metrics.jsonl")
    assert [line["step"] for line in record] == list(range(601))
    assert record == lines(whole, "metrics.jsonl")
    one, other = (
        load_file(workdir / "checkpoints/600/params.safetensors")
        for workdir in (tmp_path / "run", whole)
    )
    assert {name: one[name].tobytes() for name in one} == {
        name: other[name].tobytes() for name in other
    }


@pytest.mark.long
def test_a_disk_that_takes_no_checkpoint(tmp_path, whole):
    """Each failure is reported once, training goes on, and the run ends as failed."""
    flags = ["--config=experiments/bigram.py:smoke", f"--workdir={tmp_path / 'run'}"]
    result = run_limited(12, *flags)
    assert result.returncode == 1
    for step in (10, 20):
        assert result.stdout.count(f"The checkpoint of step {step} was not saved (") == 1
    assert "step 20/20" in result.stdout
    assert result.stderr.count("\n") == 1
    assert "the last checkpoint could not be saved" in result.stderr
    assert "and there is none before it" in result.stderr
    assert run_folder.read_json(tmp_path / "run/summary.json")["status"] == "failed"
    assert list((tmp_path / "run/checkpoints").iterdir()) == []
    again = run("main.py", *flags, RESUME, WANDB_MODE="disabled")
    assert again.returncode == 0, again.stderr
    steps = [line["step"] for line in lines(tmp_path / "run", "metrics.jsonl")]
    assert steps == [0, 5, 10, 15, 20]
