"""Tests of records: the field of .jsonl and .parquet files that is their text."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import default
from input_pipeline import corpus, documents, text_files
from runtime.errors import UserError

TEXTS = ["naïve", "two\nlines\n", "", '\u2028 € 𝄞 \\ " {', "old Mac\r", "end"]
TEXT = 'naïve\ntwo\nlines\n\u2028 € 𝄞 \\ " {\nold Mac\rend'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def as_json(path, texts, **options):
    records = ({"id": 3, "text": text} for text in texts)
    path.write_text("\n".join(json.dumps(record, **options) for record in records))


def as_parquet(path, texts, kind=None, **options):
    columns = {"id": [3] * len(texts), "text": pyarrow.array(texts, kind or pyarrow.string())}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)


def text_of(*files, field="text"):
    return "".join(documents.pieces(list(files), field))


WRITTEN = {
    "escaped.jsonl": lambda path: as_json(path, TEXTS),
    "plain.jsonl": lambda path: as_json(path, TEXTS, ensure_ascii=False),
    "UPPER.JSONL": lambda path: as_json(path, TEXTS),
    "other.ndjson": lambda path: as_json(path, TEXTS),
    "blank lines.jsonl": lambda path: (
        as_json(path, TEXTS),
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n") + b"\n"),
    ),
    "x.parquet": lambda path: as_parquet(path, TEXTS),
    "X.Parquet": lambda path: as_parquet(path, TEXTS, compression="zstd"),
    "groups.parquet": lambda path: as_parquet(path, TEXTS, row_group_size=2),
    "large.parquet": lambda path: as_parquet(path, TEXTS, pyarrow.large_string()),
    "dictionary.parquet": lambda path: as_parquet(
        path, TEXTS, pyarrow.dictionary(pyarrow.int8(), pyarrow.string())
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("size", [3, 1 << 20])
def test_the_text_is_that_of_the_field(tmp_path, monkeypatch, name, size):
    WRITTEN[name](tmp_path / name)
    (tmp_path / "plain.txt").write_text("plain")
    monkeypatch.setattr(text_files, "PIECE", size)
    assert text_of(tmp_path / name) == TEXT
    assert text_of(tmp_path / name, tmp_path / "plain.txt") == f"{TEXT}\nplain"


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_json_lines_and_parquet_give_the_same_text(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("records")
    as_json(folder / "a.jsonl", texts)
    as_parquet(folder / "a.parquet", texts)
    parts = [text for text in texts if text]
    ended = [text if text.endswith(("\n", "\r")) else f"{text}\n" for text in parts[:-1]]
    expected = "".join(ended + parts[-1:])
    assert text_of(folder / "a.jsonl") == text_of(folder / "a.parquet") == expected


def line(content):
    return lambda folder: (folder / "x.jsonl").write_text(content)


def parquet(texts, kind):
    return lambda folder: as_parquet(folder / "x.parquet", texts, kind)


REFUSED = {
    "another field": (line('{"a": "1"}\n{"b": "2"}'), "x.jsonl, line 2 has no field 'a': set --c"),
    "no field named": (
        line('{"a": "1", "b": 2}'),
        "x.jsonl, line 1 has records: set --con",
    ),
    "no JSON": (line('{"a": "1"}\n{"a": '), "x.jsonl, line 2 is no JSON object: Expecting value"),
    "a list": (line('["a"]'), "x.jsonl, line 1 is no JSON object: ["),
    "JSON over lines": (line('{\n"a": "1"\n}'), "x.jsonl, line 1 is no JSON object: Expecting"),
    "too deep": (line("[" * 10**5), "x.jsonl, line 1 is no JSON object: "),
    "a number": (line('{"a": 1}'), "x.jsonl, line 1: its field 'a' is 1, expected a text"),
    "null": (line('{"a": null}'), "x.jsonl, line 1: its field 'a' is None, expected a text"),
    "a NUL": (line('{"a": "\\u0000"}'), r"line 1: its field 'a' is '\x00', expected a text"),
    "half a pair": (line('{"a": "\\ud83d"}'), r"line 1: its field 'a' is '\ud83d', expected a"),
    "no UTF-8": (
        lambda folder: (folder / "x.jsonl").write_bytes('{"a": "café"}'.encode("latin1")),
        "x.jsonl is not UTF-8 at byte 10 (0xe9): it looks like CP1252",
    ),
    "gzip": (
        lambda folder: (folder / "x.jsonl").write_bytes(b"\x1f\x8b\x08"),
        "x.jsonl is gzip, not a text: run gzip -dc",
    ),
    "columns": (parquet(["1"], None), "x.parquet has no field 'a': set --config.data.field (--"),
    "numbers": (parquet([7], pyarrow.int32()), "row 1: its field 'text' is 7, expected a text"),
    "bytes": (
        parquet([b"1"], pyarrow.binary()),
        "row 1: its field 'text' is b'1', expected",
    ),
    "no value": (parquet(["1", None], None), "row 2: its field 'text' is None, expected a text"),
    "no Parquet": (
        lambda folder: (folder / "x.parquet").write_text("PAR1 it is not."),
        "x.parquet can't be read as Parquet: ",
    ),
    "a part of Parquet": (
        lambda folder: (
            as_parquet(folder / "x.parquet", TEXTS),
            (folder / "x.parquet").write_bytes((folder / "x.parquet").read_bytes()[:99]),
        ),
        "x.parquet can't be read as Parquet: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_record_is_named(tmp_path, name):
    write, message = REFUSED[name]
    write(tmp_path)
    (path,) = (file for file in tmp_path.iterdir() if file.name.startswith("x"))
    field = "text" if "row" in message else "" if name == "no field named" else "a"
    with pytest.raises(UserError) as caught:
        text_of(path, field=field)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def load(**keys):
    data = default.get_config().data
    data.update(name="text", **{key: str(value) for key, value in keys.items()})
    return corpus.load(data)


def test_a_validation_file_of_ones_own(tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all/a.txt").write_text("train")
    (tmp_path / "all/v.txt").write_text("val")
    own = load(path=tmp_path / "all", val_path=tmp_path / "all/v.txt")
    split = load(path=tmp_path / "all")
    for loaded, texts in ((own, ("train", "val")), (split, ("train\nva", "l"))):
        decode = loaded.tokenizer.decode
        assert (decode(loaded.train), decode(loaded.val)) == texts
        assert loaded.characters == tuple(map(len, texts))
    assert own.digest != split.digest
    assert load(path=tmp_path / "all/v.txt", val_path=tmp_path / "all/a.txt").digest != own.digest


def test_another_field_is_another_text(tmp_path):
    Path(tmp_path / "a.jsonl").write_text('{"x": "one", "y": "two", "z": "one"}')
    digests = {load(path=tmp_path / "a.jsonl", field=field).digest for field in "xyz"}
    assert len(digests) == 3


@pytest.mark.parametrize("key", ["val_path", "field"])
def test_keys_of_a_text_are_refused_beside_a_data_set(key):
    data = default.get_config().data
    data[key] = "x"
    with pytest.raises(UserError) as caught:
        corpus.load(data)
    assert str(caught.value) == f"--config.data.{key}=x: expected with --config.data.name=text"
