"""Tests of prompts: a default suits the text, and one of the user's own is named if it does not."""

import importlib
import os
import sys

import pytest

import run_folder
import train
from inference import prompts
from runtime.errors import UserError
from tests.command import assert_refused
from tests.forked import run


def train_on(text, folder, **changes):
    """Trains a bigram model for a step; returns the prompts of its samples."""
    (folder / "text.txt").write_bytes(text.encode())
    config = importlib.import_module("experiments.bigram").get_config("smoke")
    config.update_from_flattened_dict(
        {
            "data.name": "text",
            "data.path": str(folder / "text.txt"),
            "train.num_steps": 1,
            "train.steps_per_dispatch": 1,
            "tracking.wandb_mode": "disabled",
            **changes,
        }
    )
    train.train_and_evaluate(config, folder / "run")
    return {line["prompt"] for line in run_folder.read_lines(folder / "run/samples.jsonl")}


SAID = {
    "a line end": ("What\n" * 30, {}, "\n", ""),
    "Windows' line ends": ("What\r\n" * 30, {}, "\n", ""),
    "an old Mac's line ends": ("What\r" * 30, {}, "\r", r"has no '\n', so samples continue '\r'"),
    "one line": ("what follows what " * 9, {}, " ", r"has no '\n', so samples continue ' '"),
    "DNA": ("TGCA" * 30, {}, "A", r"sample.prompt: this text has no '\n', so samples continue 'A'"),
    "one letter": ("a" * 99, {}, "a", "so samples continue 'a'"),
    "Chinese": ("学而时习之" * 20, {}, "之", "so samples continue '之'"),
    "bytes": ("TGCA" * 30, {"data.tokenizer": "byte"}, "\n", ""),
    "learned tokens": ("TGCA" * 99, {"data.tokenizer": "bpe:257"}, "\n", ""),
    "a prompt of the user's": ("TGCA" * 30, {"sample.prompt": "CA"}, "CA", ""),
}


@pytest.mark.long
@pytest.mark.parametrize("name", SAID)
def test_samples_continue_what_the_text_has(name, tmp_path, capsys):
    text, changes, prompt, note = SAID[name]
    assert train_on(text, tmp_path, **changes) == {prompt}
    notes = [line for line in capsys.readouterr().out.splitlines() if "sample.prompt" in line]
    assert note in "".join(notes) and len(notes) == bool(note)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("U", "--config.sample.prompt='U': character 'U' at position 0 of the text is not among"),
        ("A\n", r"--config.sample.prompt='A\n': character '\n' at position 1"),
        ("", "--config.sample.prompt is empty"),
    ],
)
def test_a_prompt_of_the_users_that_does_not_suit_names_its_key(prompt, message, tmp_path):
    with pytest.raises(UserError) as caught:
        train_on("TGCA" * 30, tmp_path, **{"sample.prompt": prompt})
    assert message in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.long
def test_generate_continues_what_the_model_knows(tmp_path):
    flags = ["--config=experiments/bigram.py:smoke", "--config.data.name=text"]
    flags += [f"--config.data.path={tmp_path / 'x.txt'}", f"--workdir={tmp_path / 'run'}"]
    (tmp_path / "x.txt").write_text("TGCA" * 30)
    assert run("main.py", *flags, WANDB_MODE="disabled").returncode == 0
    made = run("generate.py", f"--workdir={tmp_path / 'run'}", "--num_tokens=9")
    assert made.returncode == 0 and made.stdout.startswith("A") and len(made.stdout) == 1 + 9 + 1
    note = r"--prompt: this model knows no '\n', so it continues 'A'"
    assert made.stderr.splitlines() == [note, f"{tmp_path / 'run'}, step 20"]
    for prompt, message in (
        ("\n", r"--prompt='\n': character '\n' at position 0 of the text is not among the 4"),
        ("U", "--prompt='U': character 'U' at position 0 of the text is not among the 4 "),
    ):
        assert_refused(
            run("generate.py", f"--workdir={tmp_path / 'run'}", f"--prompt={prompt}"), message
        )


# Name: (content of a file, the prompt or the message about it).
FILES = {
    "as it is": (b"\nKING:\n\tWhat,", "\nKING:\n\tWhat,"),
    "a line end at the end": (b"KING:\n", "KING:"),
    "a second one": (b"KING:\n\n", "KING:\n"),
    "Windows' line ends": (b"A\r\nB\r\n", "A\r\nB"),
    "a byte order mark": ("\ufeffnaïve".encode(), "naïve"),
    "the largest": (b"a" * prompts.MAX_BYTES, "a" * prompts.MAX_BYTES),
    "too large": (b"a" * (prompts.MAX_BYTES + 1), "@ has more than 1,048,576 bytes: expected a"),
    "empty": (b"", "@ is empty: expected a prompt"),
    "a line end alone": (b"\n", "@ is empty: expected a prompt"),
    "a code page": ("dem café".encode("cp1252"), "@ is not UTF-8 at byte 7 (0xe9): it looks like"),
    "UTF-16": ("KING".encode("utf-16"), "@ is UTF-16, not a text: run iconv -f UTF-16 -t UTF-8 @"),
    "gzip": (b"\x1f\x8b\x08\0", "@ is gzip, not a text: run gzip -dc @"),
    "a PDF": (b"%PDF-1.7\n", "@ is a PDF, not a text: run pdftotext @"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_prompt_in_a_file(name, tmp_path):
    content, expected = FILES[name]
    path = str(tmp_path / "prompt")
    (tmp_path / "prompt").write_bytes(content)
    if expected.startswith("@"):
        with pytest.raises(UserError) as caught:
            prompts.read(path)
        assert str(caught.value).startswith(expected.replace("@", path))
    else:
        assert prompts.read(path) == expected


def test_a_prompt_may_come_from_another_program(tmp_path, monkeypatch):
    """From a pipe, which the shell names for <(PROGRAM), or that never ends; and from nowhere."""
    reads, writes = os.pipe()
    os.write(writes, b"KING:\n")
    os.close(writes)
    assert prompts.read(f"/dev/fd/{reads}") == "KING:"
    os.close(reads)
    monkeypatch.setattr(sys, "stdin", None)
    for path, message in {
        "/dev/zero": "/dev/zero has more than 1,048,576 bytes",
        str(tmp_path): f"{tmp_path} can't be read (Is a directory): check the path",
        f"{tmp_path}/none": f"{tmp_path}/none can't be read (No such file or directory)",
        "-": "standard input is closed: give a file, or start the command without <&-",
    }.items():
        with pytest.raises(UserError) as caught:
            prompts.read(path)
        assert str(caught.value).startswith(message)
