"""`prepare.py`: what becomes of documents, in every format; kills; and its refusals."""

import gzip
import hashlib
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import run_folder
from input_pipeline import preparation, raw_documents, shards, tokenizers
from input_pipeline.raw_documents import END, Document, Reader
from tests.command import OF_A_COMMAND, ROOT, assert_refused
from tests.prepared import prepare
from tests.terminal import Terminal

TEXTS = [
    f"Document {number}: être ou ne pas être, {'words ' * (number % 50)}" for number in range(90)
]


def write_lines(path, texts, field="text"):
    content = "".join(f"{json.dumps({field: text, 'id': 1})}\n" for text in texts).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = pyarrow.compress(content, "zstd", asbytes=True)
    path.write_bytes(content)


def write_parquet(path, texts):
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), path)


def write_text(path, texts):
    content = END.join(texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def prepared_documents(folder):
    """Returns the documents of both splits, decoded."""
    index = run_folder.read_json(folder / shards.INDEX)
    opened = shards.open_folder(str(folder), index["tokenizer"])
    end = opened.tokenizer.encode(END)
    found = {"train": [], "val": []}
    for split, arrays, ends in (
        ("train", opened.train, opened.train_ends),
        ("val", [opened.val], [opened.val_ends]),
    ):
        for array, stops in zip(arrays, ends, strict=True):
            assert len(array) == stops[-1]
            for document in np.split(array, stops[:-1].astype(int)):
                assert document[-len(end) :].tolist() == end.tolist()
                found[split].append(opened.tokenizer.decode(document[: -len(end)]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", write_lines),
        ("a.jsonl.gz", write_lines),
        ("a.ndjson.zst", write_lines),
        ("a.parquet", write_parquet),
        ("a.txt", write_text),
        ("a.txt.gz", write_text),
    ],
)
def test_documents_are_kept_apart_in_every_format(name, write, tmp_path):
    write(tmp_path / name, TEXTS)
    result = prepare(tmp_path / name, tmp_path / "out", "--tokenizer=gpt2", "--val_share=0.2")
    assert (result.returncode, result.stderr) == (0, "")
    assert "90 documents" in result.stdout and "left out: 0 bad lines, 0 dupl" in result.stdout
    found = prepared_documents(tmp_path / "out")
    held_out = [text for text in TEXTS if preparation.is_held_out(text, 0.2)]
    assert 5 < len(held_out) < 35
    assert found["val"] == held_out
    assert found["train"] == [text for text in TEXTS if text not in held_out]
    index = run_folder.read_json(tmp_path / "out" / shards.INDEX)
    # GPT-2's end of a text is one token.
    tokenizer = tokenizers.load(tmp_path / "out" / shards.TOKENIZER)
    expected = sum(len(tokenizer.encode(text)) + 1 for text in found["train"])
    assert index["counts"]["tokens"] == expected and index["dtype"] == "<u2"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(shards.INDEX, shards.TOKENIZER, run_folder.LOCK, "train-00000.bin", shards.VAL),
        *("train-00000.ends.bin", "val.ends.bin"),
    }


@pytest.mark.slow
def test_files_folders_and_globs_are_read_in_order(tmp_path):
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    write_lines(folder / "b.jsonl.gz", TEXTS[:30])
    write_text(folder / "below/a.txt", TEXTS[30:60])
    write_lines(folder / "c.jsonl", TEXTS[60:])
    (folder / "image.png").write_bytes(b"\x89PNG")  # Left aside, as what is no text.
    flags = ["--tokenizer=byte", "--val_share=0.05"]
    assert prepare(folder, tmp_path / "one", *flags).returncode == 0
    named = f"{folder}/*.gz,{folder}/below,{folder}/c.jsonl"
    assert prepare(named, tmp_path / "other", *flags).returncode == 0
    found = [prepared_documents(tmp_path / name) for name in ("one", "other")]
    assert found[0] == found[1]
    assert sorted(found[0]["train"] + found[0]["val"]) == sorted(TEXTS)


@pytest.mark.slow
def test_duplicates_and_bad_lines_are_left_out_and_counted(tmp_path):
    lines = [json.dumps({"text": text}) for text in [*TEXTS, *TEXTS[:40]]]
    bad = ["{", '{"other": 1}', '"text"', '{"text": 3}', '{"text": "\\ud800"}', "\x1b[2J"]
    content = "\n".join([*lines[:50], *bad, "", *lines[50:]])
    (tmp_path / "a.jsonl").write_bytes(content.encode() + b'\n{"text": "\xff"}\n')
    flags = ["--tokenizer=bpe:300", "--drop_duplicates", "--val_share=0.1"]
    result = prepare(tmp_path / "a.jsonl", tmp_path / "out", *flags)
    assert result.returncode == 0, result.stderr
    assert "90 documents" in result.stdout and "left out: 7 bad lines, 40 dupl" in result.stdout
    shown = result.stderr.splitlines()
    assert len(shown) == raw_documents.SHOWN
    assert shown[0].startswith(f"left out: {tmp_path}/a.jsonl, line 51 is no JSON object: ")
    assert "line 52 has no text in a field 'text': other" in shown[1]
    found = prepared_documents(tmp_path / "out")
    assert sorted(found["train"] + found["val"]) == sorted(TEXTS)
    few = prepare(tmp_path / "a.jsonl", tmp_path / "few", *flags, "--max_bad=6")
    assert few.returncode == 2 and few.stdout == ""
    assert "that is bad line 7, and --max_bad=6: mend them" in few.stderr


@pytest.mark.slow
def test_the_same_command_again_does_nothing_and_another_one_is_refused(tmp_path):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    flags = ["--tokenizer=byte", "--val_share=0.1"]
    first = prepare(tmp_path / "a.jsonl", tmp_path / "out", *flags)
    files = hashes(tmp_path / "out")
    # As a kill leaves it that comes right after the index was written.
    (tmp_path / "out/pieces").mkdir()
    (tmp_path / "out/pieces/00000.json").write_text("{}")
    again = prepare(tmp_path / "a.jsonl", tmp_path / "out", *flags)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert hashes(tmp_path / "out") == files
    other = prepare(tmp_path / "a.jsonl", tmp_path / "out", "--tokenizer=gpt2", "--val_share=0.1")
    assert_refused(other, "holds another corpus, or one of other files or flags")
    write_lines(tmp_path / "a.jsonl", TEXTS[1:])
    assert_refused(prepare(tmp_path / "a.jsonl", tmp_path / "out", *flags), "holds another corpus")
    assert hashes(tmp_path / "out") == files
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert_refused(prepare(tmp_path / "a.jsonl", tmp_path / "mine", *flags), "holds another corpus")


def hashes(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != run_folder.LOCK
    }


def truncated(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("a.jsonl.gz", truncated, "can't be read (Compressed file ended before the end-of-stream"),
        ("a.jsonl.gz", lambda content: b"plain text", "can't be read (Not a gzipped file"),
        ("a.jsonl.gz", lambda content: content[:40] + b"!" * 99 + content[139:], "can't be read ("),
        ("a.jsonl.zst", lambda content: b"plain text", "can't be read ("),
        ("a.jsonl.zst", truncated, "can't be read ("),
        ("a.parquet", truncated, "can't be read as Parquet"),
        ("a.txt", lambda content: content + "Düsseldorf".encode("latin-1"), "is not UTF-8"),
        ("a.txt", lambda content: "words".encode("utf-16"), "UTF-16"),
        ("a.txt", lambda content: content + b"\0", "NUL"),
        ("a.txt", lambda content: b"", "is empty: leave it out"),
    ],
)
def test_a_file_that_can_not_be_read_is_one_line(name, damage, message, tmp_path):
    write = {"parquet": write_parquet, "txt": write_text}.get(name.split(".")[1], write_lines)
    write(tmp_path / name, TEXTS * 20)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    result = prepare(tmp_path / name, tmp_path / "out", "--tokenizer=byte")
    assert_refused(result, message)
    assert str(tmp_path / name) in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokenizer=char"], "--tokenizer=char: expected gpt2, byte, or bpe: and a number"),
        (["--tokenizer=folder:x"], "--tokenizer=folder:x: expected gpt2, byte, or bpe:"),
        (["--tokenizer=bpe:3"], "--tokenizer='bpe:3': expected 257 to 1000000 tokens"),
        (["--val_share=1"], "--val_share=1.0 holds all 90 documents out: lower it"),
        (["--val_share=0"], "--val_share=0.0 holds none of 90 documents out: raise it"),
        (["--field=body", "--max_bad=3"], "line 4 has no text in a field 'body': text, id"),
        (["--workers=0"], "--workers=0"),
        (["--input=/no/such/file"], "/no/such/file can't be read (No such file or directory)"),
        (["--input=/no/such/*.txt"], "matches no file"),
    ],
)
def test_mistakes_are_refused(flags, message, tmp_path):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    assert_refused(
        prepare(tmp_path / "a.jsonl", tmp_path / "out", "--tokenizer=byte", *flags), message
    )


def test_a_folder_that_can_not_be_written_is_one_line(tmp_path):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "file").write_text("")
    result = prepare(tmp_path / "a.jsonl", tmp_path / "file/out", "--tokenizer=byte")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "file/out can't be written" in result.stderr


@given(st.lists(st.text("ab <|>\n", min_size=0, max_size=30), max_size=8), st.integers(1, 7))
def test_a_text_is_cut_at_its_separators_and_nothing_is_lost(texts, size):
    whole = END.join(texts)
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    most, raw_documents.MOST = raw_documents.MOST, 12
    try:
        found = list(raw_documents.of_text(iter(pieces)))
    finally:
        raw_documents.MOST = most
    joined = "".join(document.text + "\0" * document.ends for document in found)
    assert joined.split("\0")[:-1] == (texts or [""])  # The last one ends, too.
    assert joined.replace("\0", END).removesuffix(END) == whole
    assert all(END not in document.text for document in found)


def test_pieces_hold_all_documents(monkeypatch):
    monkeypatch.setattr(preparation, "PIECE", 100)
    documents = [Document("x" * length) for length in (30, 80, 250, 1, 99, 2)]
    pieces = list(preparation.in_pieces(documents))
    assert [len(piece) for piece in pieces] == [2, 1, 2, 1]
    assert list(itertools.chain.from_iterable(pieces)) == documents


@pytest.mark.slow
def test_a_long_document_keeps_its_tokens(tmp_path):
    """One of 20 MB in a text file is cut, between words, and ends once."""
    text = "It was the best of times, it was the worst of times. " * 400_000
    (tmp_path / "a.txt").write_text(text + END + "short")
    reader = Reader([tmp_path / "a.txt"], "text", 0)
    found = list(reader.documents())
    assert [document.ends for document in found] == [False, False, True, True]
    assert "".join(document.text for document in found[:3]) == text
    assert reader.position == reader.total == (tmp_path / "a.txt").stat().st_size
    tokenizer = tokenizers.ByteTokenizer()
    parts = [tokenizer.encode(document.text) for document in found[:3]]
    np.testing.assert_array_equal(np.concatenate(parts), tokenizer.encode(text))


KILLS = 20


@pytest.mark.long
def test_killed_twenty_times_it_comes_to_the_same_files(tmp_path):
    """SIGKILL to the command at random moments: its workers end, and what is done stays."""
    draw = random.Random(5)
    texts = [f"{number} {draw.random()} " + "to be or not to be " * 300 for number in range(6000)]
    write_lines(tmp_path / "a.jsonl.gz", texts)
    small = "import input_pipeline.preparation as p; p.PIECE = 1 << 19; "
    script = f"{small}import runpy, sys; runpy.run_path('prepare.py', run_name='__main__')"

    def start(output):
        flags = [f"--input={tmp_path}/a.jsonl.gz", f"--output={output}", "--tokenizer=gpt2"]
        return subprocess.Popen(
            [sys.executable, "-c", script, *flags, "--workers=2", "--drop_duplicates"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    began = time.monotonic()
    whole = start(tmp_path / "whole")
    assert whole.wait(OF_A_COMMAND) == 0, whole.stderr.read()
    seconds = time.monotonic() - began
    kills = 0
    while True:
        process = start(tmp_path / "killed")
        try:
            process.wait(draw.random() * seconds if kills < KILLS else OF_A_COMMAND)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        if kills < KILLS:  # It has ended before its kill: begin again.
            assert process.returncode == 0, process.stderr.read()
            for path in (tmp_path / "killed").iterdir():
                path.unlink()
            continue
        assert process.returncode == 0, process.stderr.read()
        break
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "killed")


@pytest.mark.slow
def test_a_terminal_shows_what_is_done_and_how_far(tmp_path):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    flags = [f"--input={tmp_path}/a.jsonl", f"--output={tmp_path}/out", "--tokenizer=bpe:300"]
    code, shown = Terminal("prepare.py", *flags, "--val_share=0.2", columns=120).end()
    assert code == 0, shown
    size = (tmp_path / "a.jsonl").stat().st_size
    assert "learning the vocabulary" in shown
    assert re.search(rf"preparing +━+ +{size / 1000:.1f}/{size / 1000:.1f} kB +0:00:00", shown)


def test_texts_without_a_document_are_refused(tmp_path):
    write_lines(tmp_path / "a.jsonl", ["", ""])
    result = prepare(tmp_path / "a.jsonl", tmp_path / "out", "--tokenizer=byte")
    assert_refused(result, "--input has no document that is not empty: name files that have some")


@pytest.mark.long
def test_ctrl_c_is_one_line_and_the_command_goes_on(tmp_path):
    write_lines(tmp_path / "a.jsonl", [f"{n} " + "to be or not " * 20_000 for n in range(400)])
    flags = [f"--input={tmp_path}/a.jsonl", f"--output={tmp_path}/out", "--tokenizer=gpt2"]
    process = subprocess.Popen(
        [sys.executable, "prepare.py", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("out/train-*.bin")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=OF_A_COMMAND)
    assert process.returncode == 130 and "Traceback" not in error
    assert not (tmp_path / "out/index.json").exists()
    result = prepare(tmp_path / "a.jsonl", tmp_path / "out", "--tokenizer=gpt2")
    assert result.returncode == 0, result.stderr
