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


def test_no_stage_follows_one_that_ends_by_itself_after_a_signal(tmp_path):
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: exit(0))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    code = f"import ladder; ladder.run({str(stage)!r}); print('the next stage')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 143
