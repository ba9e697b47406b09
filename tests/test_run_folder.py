"""The run folder: atomic files, whole lines, each step once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import run_folder
from runtime.errors import UserError


def test_json_comes_back_as_it_was(tmp_path):
    content = {"a": [1, 2.5, None, True], "b": {"c": "é\n\x1b"}}
    run_folder.write_json(tmp_path / "x.json", content)
    assert run_folder.read_json(tmp_path / "x.json") == content
    assert os.listdir(tmp_path) == ["x.json"]


def test_json_that_can_not_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    run_folder.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        run_folder.write_json(path, {"a": object()})
    assert run_folder.read_json(path) == {"a": 1}


def test_nan_and_infinity_become_null(tmp_path):
    run_folder.append_line(tmp_path / "x.jsonl", {"a": float("nan"), "b": [float("-inf"), 1.0]})
    assert (tmp_path / "x.jsonl").read_text() == '{"a": null, "b": [null, 1.0]}\n'


@pytest.mark.parametrize("content", [None, "", "{", "\udcff"])
def test_unreadable_json_is_a_one_line_user_error(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"x\.json") as error:
        run_folder.read_json(path)
    assert "\n" not in str(error.value)


def test_an_unfinished_last_line_is_dropped(tmp_path):
    path = tmp_path / "x.jsonl"
    for step in range(3):
        run_folder.append_line(path, {"step": step, "text": "a\nb\u2028c"})
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        lines = list(run_folder.read_lines(path))
        assert lines == [json.loads(line) for line in whole[:length].split(b"\n")[:-1]]


def test_a_missing_file_has_no_lines(tmp_path):
    assert list(run_folder.read_lines(tmp_path / "none.jsonl")) == []
    run_folder.set_aside_after(tmp_path / "none.jsonl", 5)
    assert os.listdir(tmp_path) == []


def test_lines_past_a_step_are_set_aside_and_kept(tmp_path):
    path = tmp_path / "x.jsonl"
    for step in (0, 10, 20, 30):
        run_folder.append_line(path, {"step": step})
    with open(path, "a") as file:
        file.write('{"step": 4')
    run_folder.set_aside_after(path, 10)
    run_folder.append_line(path, {"step": 20, "again": True})
    assert list(run_folder.read_lines(path)) == [
        {"step": 0},
        {"step": 10},
        {"step": 20, "again": True},
    ]
    discarded = tmp_path / "x.jsonl.discarded"
    assert list(run_folder.read_lines(discarded)) == [{"step": 20}, {"step": 30}]


@pytest.mark.parametrize("hole", [b"\0" * 50 + b"\n", b"\xff\xfe\n", b'{"step": 3\n'])
def test_lines_from_a_corrupted_one_on_are_dropped(tmp_path, hole):
    """After a power cut a file may hold zeros, and whole lines after them."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + hole + b'{"step": 4}\n')
    run_folder.set_aside_after(path, 2)
    assert list(run_folder.read_lines(path)) == [{"step": 1}, {"step": 2}]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "x.json"
    writer = (
        "import sys; from pathlib import Path; import run_folder\n"
        "for n in range(10**9): run_folder.write_json(Path(sys.argv[1]), [n] * 5000)"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, path], cwd=Path(__file__).parents[1])
    try:
        seen = set()
        while len(seen) < 20:
            if path.exists():
                content = run_folder.read_json(path)
                assert len(content) == 5000 and len(set(content)) == 1
                seen.add(content[0])
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(set(run_folder.read_json(path))) == 1


def test_new_folders_of_one_second_differ_and_empty_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "now")
    with (
        run_folder.new_folder(tmp_path / "runs", "gpt2") as one,
        run_folder.new_folder(tmp_path / "runs", "gpt2") as other,
    ):
        assert (one.name, other.name) == ("gpt2-now", "gpt2-now-2")
        (other / "config.json").touch()
    assert list((tmp_path / "runs").iterdir()) == [other]


def test_a_new_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "runs").touch()
    for parent in (tmp_path / "runs", Path("/proc/runs")):
        with (
            pytest.raises(UserError, match="with --workdir"),
            run_folder.new_folder(parent, "gpt2"),
        ):
            raise AssertionError("it was made")
