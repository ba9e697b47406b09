"""The ladder as a command; test_readme.py runs it to its end."""

import signal
import subprocess
import sys

import pytest

from tests.command import ROOT, run


@pytest.mark.slow
def test_a_signal_stops_the_stage_that_trains_and_the_ladder(tmp_path):
    command = [sys.executable, "ladder.py", f"--workdir={tmp_path}", "--preset=smoke"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, cwd=ROOT, **pipes)
    while "run folder" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "stage 2" not in output and errors.count("\n") == 1, errors


def test_a_stage_that_fails_ends_the_ladder(tmp_path):
    result = run("ladder.py", f"--workdir={tmp_path}", "--preset=smok")
    assert result.returncode == 2
    assert result.stdout == "stage 1 of 5: bigram\n"
    assert result.stderr.startswith("error: unknown preset 'smok'")
    assert result.stderr.count("\n") == 1
