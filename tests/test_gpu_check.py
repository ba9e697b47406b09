"""GPU check: each part's outcome is recorded, and a failure does not stop the others."""

import json
import os
import signal
import sys
import threading
from functools import partial

import pytest

import run_folder
from benchmarks import checklist, commands, gpu_check, gpu_compiled
from benchmarks.gpu_parts import finding
from runtime.errors import Failed, UserError
from tests.command import PATIENCE, assert_refused, has_ended, run, wait_until

# Seconds for a part that is to be stopped: it has to begin before, on any machine.
LIMIT = 15
# A part's process begins with the file for its figures.
BEGIN = """
import subprocess, sys, time
from pathlib import Path
from benchmarks.gpu_parts.finding import Finding
file = Path(sys.argv[-1])
finding = Finding(file)
finding.put(first=1)
"""
BODIES = {
    "good": "finding.put(summary='as it should be'); finding.judge(True)",
    "recorded": "",
    "failing": "finding.judge(False)",
    "crashing": "finding.judge(True); raise ValueError('too\\nlong')",
    "silent": "sys.exit(7)",
    "garbage": "file.write_text('{]')",
    "other": "file.write_text('[1]')",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "hanging": "print('on it', flush=True); time.sleep(9999)",
}


def part(name, *, seconds=PATIENCE, must_pass=True, body=None):
    """Returns a part that runs one of BODIES, or `body`."""
    command = [sys.executable, "-c", BEGIN + (BODIES[name] if body is None else body)]
    return checklist.Part(name, f"{name}?", seconds, command, {"SIGN": "seen"}, must_pass)


@pytest.mark.long
def test_every_outcome_of_a_part_is_recorded_and_the_others_run():
    rows = {
        row["name"]: row for row in checklist.run([part(name) for name in list(BODIES)[:-1]], 9999)
    }
    assert {name: row["passed"] for name, row in rows.items()} == {
        "good": True,
        "recorded": None,
        "failing": False,
        "crashing": False,
        "silent": False,
        "garbage": False,
        "other": False,
        "killed": False,
    }
    assert rows["good"]["figures"] == {"first": 1, "summary": "as it should be"}
    assert rows["crashing"]["figures"] == {"first": 1}  # Written before the crash.
    assert rows["crashing"]["error"] == "ended with code 1: ValueError: too"
    assert rows["crashing"]["output"][-2:] == ["ValueError: too", "long"]
    assert rows["silent"]["error"] == "ended with code 7: nothing was printed"
    assert rows["garbage"]["error"] == rows["other"]["error"] == "ended with no result"
    assert rows["killed"]["error"].startswith("ended with code -9")
    assert all(row["measured"] and row["seconds"] > 0 for row in rows.values())
    assert "error" not in rows["good"] | rows["recorded"] | rows["failing"]


@pytest.mark.long
@pytest.mark.parametrize(("must_pass", "passed"), [(True, False), (False, None)])
def test_a_part_is_stopped_at_its_limit(must_pass, passed):
    hanging = part("hanging", seconds=LIMIT, must_pass=must_pass)
    first, second = checklist.run([hanging, part("good")], LIMIT + PATIENCE)
    assert first["passed"] is passed
    assert first["figures"] == {"first": 1}
    assert first["error"] == f"stopped at its limit of {LIMIT} s"
    assert first["output"] == ["on it"]
    assert first["seconds"] >= LIMIT
    assert second["passed"]


@pytest.mark.long
def test_the_limit_ends_the_whole_process_group(tmp_path):
    """Also kills a part's child, and one that it leaves behind when it ends by itself."""
    for name, end, seconds in [("limit", "time.sleep(9999)", LIMIT), ("leave", "", PATIENCE)]:
        pid = tmp_path / name
        body = f"child = subprocess.Popen(['sleep', '9999']); Path({str(pid)!r}).write_text("
        body += f"str(child.pid)); {end}"
        ended = commands.run(
            [*part("hanging", body=body).command, str(tmp_path / "figures.json")],
            seconds=seconds,
            log=tmp_path / "log",
            environment={},
        )
        assert ended.code == (None if name == "limit" else 0)
        wait_until(partial(has_ended, int(pid.read_text())))


@pytest.mark.slow
def test_a_part_ends_with_the_process_that_waits_for_it(tmp_path):
    """Also kills the part when the check itself is interrupted."""

    def stop(*_):
        raise KeyboardInterrupt

    pid = tmp_path / "pid"
    body = f"import os; Path({str(pid)!r}).write_text(f'{{os.getpid()}} '); time.sleep(9999)"
    command = [*part("hanging", body=body).command, str(tmp_path / "figures.json")]

    def interrupt():
        wait_until(lambda: pid.exists() and pid.read_text())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, stop)
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            commands.run(command, seconds=2 * PATIENCE, log=tmp_path / "log", environment={})
    finally:
        interrupting.join()
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: has_ended(int(pid.read_text())))


def test_parts_get_the_environment_and_the_variables_added_to_it():
    body = "import os; finding.put(sign=os.environ['SIGN'], path=os.environ['PATH'])"
    (row,) = checklist.run([part("good", body=body)], PATIENCE)
    assert row["figures"] == {"first": 1, "sign": "seen", "path": os.environ["PATH"]}


@pytest.mark.parametrize(
    ("left", "own", "later", "expected"),
    [
        (400, 10, 340, 60),  # Time that no later part needs.
        (350, 10, 340, 10),
        (100, 50, 340, 50),  # Late: the part still gets its own seconds.
        (20, 50, 0, 20),  # Never more than the total time.
    ],
)
def test_a_part_gets_its_own_seconds_and_spare_ones(left, own, later, expected):
    assert checklist.time_limit(left, own, later) == expected


@pytest.mark.slow
def test_a_part_without_time_left_is_listed_as_skipped():
    parts = [part("hanging", seconds=4), part("good"), part("recorded", must_pass=False)]
    rows = list(checklist.run(parts, 5))
    assert [row["passed"] for row in rows] == [False, False, None]
    assert [row.get("error") for row in rows[1:]] == ["skipped: the total time ran out"] * 2


@pytest.mark.slow
def test_the_file_is_complete_after_every_part(tmp_path, capsys):
    output = tmp_path / "check.json"
    compiled = {"name": "compiled", "measured": False}
    run_folder.write_json(output, {"rows": [compiled, {"name": "old", "measured": True}]})
    parts = [part("good"), part("crashing"), part("recorded")]
    seen = []

    def rows():
        for row in checklist.run(parts, 9999):
            yield row
            seen.append([one["name"] for one in json.loads(output.read_text())["rows"]])

    with pytest.raises(Failed, match=r"did not pass: crashing; .*check.json says why"):
        gpu_check.report(output, {"rehearsal": True}, rows())
    assert seen == [
        ["good", "compiled"],
        ["good", "crashing", "compiled"],
        ["good", "crashing", "recorded", "compiled"],
    ]
    assert json.loads(output.read_text())["rehearsal"] is True
    assert list(tmp_path.iterdir()) == [output]
    printed = capsys.readouterr().out
    assert printed.count("as it should be") == 2  # When it ended, and in the table.
    assert "FAIL  crashing" in printed


def test_a_figure_that_is_not_finite_is_null(tmp_path):
    kept = finding.Finding(tmp_path / "figures.json")
    kept.put(ratio=float("nan"))
    assert finding.read(tmp_path / "figures.json") == (None, {"ratio": None})
    assert finding.read(tmp_path / "nothing.json") is None


@pytest.mark.long
def test_one_part_alone_and_the_exit_codes(tmp_path):
    output = tmp_path / "check.json"
    words = ["-m", "benchmarks.gpu_check", f"--output={output}", "--parts=peak"]
    rehearsed = run(*words, "--rehearse", JAX_PLATFORMS="cpu")
    assert rehearsed.returncode == 0, rehearsed.stderr
    found = json.loads(output.read_text())
    assert found["rehearsal"] is True
    assert found["machine"]["versions"]["jax"] and found["machine"]["cores"]
    (row,) = found["rows"]
    assert row["passed"] is None and row["figures"]["platform"] == "cpu"
    # Without a GPU the part fails, before its real sizes would take minutes on a CPU.
    measured = run(*words, "--seconds=12", JAX_PLATFORMS="cpu")
    assert measured.returncode == 1
    assert "error: did not pass: peak" in measured.stderr
    assert json.loads(output.read_text())["rows"][0]["passed"] is False


@pytest.mark.long
def test_the_expected_losses_match_the_current_experiments():
    """Retrains all experiments on this CPU."""
    body = "from benchmarks.gpu_parts import stages; from runtime import process;"
    body += "process.configure_jax();"
    body += "import json; kept = json.loads(stages.EXPECTED.read_text())['losses'];"
    body += "finding.put(**{x: stages.differences(x, 'float32', kept[x])['largest'] for x in kept})"
    (row,) = checklist.run([part("good", seconds=3600, body=body)], 3600)
    assert "error" not in row, row
    largest = {name: value for name, value in row["figures"].items() if name != "first"}
    assert len(largest) == 10 and max(largest.values()) < 1e-4


def test_compiled_rows_are_not_measured(tmp_path, monkeypatch):
    """The fake compiler prints one row and fails at the second."""
    facts = {"experiment": "gpt2.py:small", "measured": False, "products": {"bf16": 2}}
    facts |= {"attention_forward": 12, "attention_backward": 11, "peak_bytes": 7.5e9}
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\necho 'ValueError: no' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(gpu_compiled, "PYTHON", python)
    first, second = gpu_compiled.rows()
    assert not first["measured"] and not second["measured"]
    assert (first["name"], first["passed"]) == ("gpt2.py:small", None)
    assert first["figures"]["peak_bytes"] == 7.5e9
    assert "12 + 11 attention kernels" in first["figures"]["summary"]
    assert second["error"] == "ended with code 1: ValueError: no"
    assert second["passed"] is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--output=: expected a .json file in a folder that can be written"),
        (["--output=/nowhere/x.json"], "--output=/nowhere/x.json: expected a .json file in"),
        (["--output=x.txt"], "--output=x.txt: expected a .json file in"),
        (["--output=x.json", "--parts=peak,speed"], "--parts=speed: expected some of peak,stages"),
        (["--output=x.json", "--seconds=2"], "--seconds=2.0: expected more than 3.0"),
        (["--output=x.json", "--seconds=nan"], "--seconds=nan: expected more than 3.0"),
        (["--rehearse", "--compile-only"], "--rehearse --compile-only: expected one of them"),
        (["--output=x.json", "--rehearse=3"], "rehearse"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, message):
    assert_refused(run("-m", "benchmarks.gpu_check", *flags), message)


def test_compiling_needs_its_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_compiled, "PYTHON", tmp_path / "none")
    with pytest.raises(UserError, match="run make gpu-compile first"):
        gpu_compiled.check()
