"""Tests of files that are not UTF-8: the message names what it is, and its command mends it."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from input_pipeline import documents, text_files, text_paths
from runtime.errors import UserError

PLAIN = "She said so.\nAnd left.\n"
CURLY = "She said “don’t” – and left… It cost €5, naïve café.\n"
FRENCH = "Le café était fermé, à côté de la forêt.\n"
POLISH = "Zażółć gęślą jaźń. Litwo! Ojczyzno moja! ty jesteś jak zdrowie.\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга.\n"
GREEK = "Τη γλώσσα μου έδωσαν ελληνική· το σπίτι φτωχικό.\n"
CHINESE = "学而时习之，不亦说乎？一曰，有朋自远方来。\n"
TAIWANESE = "學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
KOREAN = "동해물과 백두산이 마르고 닳도록 하느님이 보우하사 우리나라 만세\n"


def zipped(name):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, PLAIN)
    return packed.getvalue()


def tarred(mode):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(PLAIN)
        archive.addfile(member, io.BytesIO(PLAIN.encode()))
    return packed.getvalue()


def parquet():
    packed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": [PLAIN]}), packed)
    return packed.getvalue()


def array():
    packed = io.BytesIO()
    np.save(packed, np.arange(9))
    return packed.getvalue()


# Name: (content, words of the message, the text after the message's command).
ENCODINGS = {
    "curly quotes": (
        CURLY.encode("cp1252"),
        "looks like CP1252 and reads 'She said “don’t”",
        CURLY,
    ),
    "accents": (FRENCH.encode("latin1"), "looks like CP1252 and reads 'Le café était", FRENCH),
    "one accent, at the end": (b"caf\xe9", "looks like CP1252 and reads 'café'", "café"),
    "one quotation mark": (PLAIN.encode() + b"don\x92t", "reads 'don’t'", PLAIN + "don’t"),
    "a Mac's": (CURLY.encode("mac_roman"), "looks like MACINTOSH and reads", CURLY),
    "Polish": (POLISH.encode("cp1250"), "looks like CP1250 and reads 'Zażółć", POLISH),
    "Russian": (RUSSIAN.encode("cp1251"), "looks like CP1251 and reads 'Все счастливые", RUSSIAN),
    "Russian of Unix": (RUSSIAN.encode("koi8-r"), "looks like KOI8-R and reads 'Все с", RUSSIAN),
    "Russian of DOS": (RUSSIAN.encode("cp866"), "looks like CP866 and reads 'Все сч", RUSSIAN),
    "Greek": (GREEK.encode("cp1253"), "looks like CP1253 and reads 'Τη γλώσσα", GREEK),
    "Chinese": (CHINESE.encode("gb18030"), "looks like GB18030 and reads '学而时习之", CHINESE),
    "Chinese of Taiwan": (TAIWANESE.encode("big5"), "looks like BIG5 and reads '學", TAIWANESE),
    "Japanese": (JAPANESE.encode("cp932"), "looks like CP932 and reads '吾輩は猫", JAPANESE),
    "Japanese of Unix": ((JAPANESE * 3).encode("euc_jp"), "looks like EUC-JP", JAPANESE * 3),
    "Korean": (KOREAN.encode("cp949"), "looks like CP949 and reads '동해물과", KOREAN),
    "UTF-16 as Windows writes it": (CURLY.encode("utf-16"), "x.txt is UTF-16, not a text", CURLY),
    "UTF-16, the other end first": (
        codecs.BOM_UTF16_BE + CURLY.encode("utf-16-be"),
        "x.txt is UTF-16, not a text",
        CURLY,
    ),
    "UTF-32": (CURLY.encode("utf-32"), "x.txt is UTF-32, not a text", CURLY),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), "looks like UTF-16LE", PLAIN),
    "UTF-16BE without a mark": (CURLY.encode("utf-16-be"), "looks like UTF-16BE", CURLY),
    "Russian UTF-16": (RUSSIAN.encode("utf-16-le"), "looks like UTF-16LE", RUSSIAN),
    "Chinese UTF-16": ((CHINESE * 9).encode("utf-16-le"), "looks like UTF-16LE", CHINESE * 9),
    "Chinese UTF-16BE": ((CHINESE * 9).encode("utf-16-be"), "looks like UTF-16BE", CHINESE * 9),
    "UTF-32 without a mark": (CURLY.encode("utf-32-le"), "looks like UTF-32LE", CURLY),
    "UTF-32BE without a mark": (PLAIN.encode("utf-32-be"), "looks like UTF-32BE", PLAIN),
    "UTF-8 with a wrong byte": (
        f"{FRENCH}été|\n{FRENCH}".encode().replace(b"|", b"\xe9"),
        "x.txt is not UTF-8 at byte 53 (0xe9): the rest is UTF-8: leave it out",
        f"{FRENCH}été\n{FRENCH}",
    ),
    "half a pair of UTF-16": (
        f"{FRENCH}a\ud83db".encode("utf-8", "surrogatepass"),
        "the rest is UTF-8: leave it out",
        f"{FRENCH}ab",
    ),
    "a part of a file": (CHINESE.encode()[:-2], "(0xe3): it ends within a character", CHINESE[:-2]),
    "a NUL": (PLAIN.encode() * 9 + b"\0\0x", "a NUL: leave it out", PLAIN * 9 + "x"),
}
FORMATS = {
    "x.txt.gz": (gzip.compress(PLAIN.encode()), "is gzip, not a text", PLAIN),
    "x.txt": (gzip.compress(PLAIN.encode()), "is gzip, not a text", PLAIN),
    "x.GZ": (gzip.compress(PLAIN.encode()), "is gzip, not a text", PLAIN),
    "x.bz2": (bz2.compress(PLAIN.encode()), "is bzip2, not a text", PLAIN),
    "x.xz": (lzma.compress(PLAIN.encode()), "is xz, not a text", PLAIN),
    "x.zip": (zipped("a.txt"), "is a zip archive, not a text", PLAIN),
    "x": (zipped("a.txt"), "is a zip archive, not a text", PLAIN),
    "x.tar": (tarred("w"), "is a tar archive, not a text", PLAIN),
    "x.tar.gz": (tarred("w:gz"), "is gzip, not a text", PLAIN),
    "x.docx": (
        zipped("word/document.xml"),
        "is a Word document, not a text: run",
        None,
    ),
    "x.xlsx": (
        zipped("xl/workbook.xml"),
        "is an Excel sheet, not a text: run",
        None,
    ),
    "x.epub": (zipped("META-INF/container.xml"), "is an EPUB book, not a text", None),
    "x.odt": (zipped("content.xml"), "is an OpenDocument text, not a text", None),
    "x.doc": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(9),
        "Office document of before 2007",
        None,
    ),
    "x.pdf": (b"%PDF-1.7\n", "is a PDF, not a text: run pdftotext", None),
    "x.rtf": (rb"{\rtf1 So.}", "is an RTF document, not a text: run pandoc", None),
    "lfs.txt": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "is a pointer of git-lfs to a file that was not fetched, not a text: run git lfs pull",
        None,
    ),
    "x.png": (b"\x89PNG\r\n\x1a\n", "is a PNG image, not a text: give a text", None),
    "x.jpg": (b"\xff\xd8\xff\xe0", "is a JPEG image, not a text: give a text", None),
    "x.mp3": (b"ID3\4\0", "is a recording in MP3, not a text: give a text", None),
    "x.mp4": (b"\0\0\0\x20ftypisom", "is a video, not a text: give a text", None),
    "x.db": (b"SQLite format 3\0", "is an SQLite database, not a text: give a text", None),
    "x.npy": (array(), "is a NumPy array, not a text: give a text", None),
    "parquet": (parquet(), "is a Parquet file, not a text: run mv", PLAIN),
    "noise": (np.random.default_rng(0).bytes(4096), "it looks binary: give a text", None),
    "zeros": (bytes(4096), "it looks binary: give a text", None),
}


def text_of(path):
    found = text_paths.find(str(path), "--config.data.path", "text")
    return "".join(documents.pieces(found.files, "text"))


def mended(path, message):
    """Checks that a file is refused, runs the command of the message, returns the text there is.

    Returns None if there is no such command here.
    """
    with pytest.raises(UserError) as caught:
        text_of(path)
    said = str(caught.value)
    assert message in said and said.count("\n") == 0 and said.startswith(f"{path} is ")
    found = re.search(r": run (.*?)(?: and give (.*))?$", said)
    if not found or not shutil.which(found[1].split()[0]) or "git lfs" in said:
        return None
    done = subprocess.run(["bash", "-c", found[1]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = Path(found[2] or path)
    return mended(result, "is a tar archive") if result.suffix == ".tar" else text_of(result)


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_is_named_and_the_command_converts_it(tmp_path, name):
    content, message, text = ENCODINGS[name]
    path = tmp_path / "it's my/x.txt"
    path.parent.mkdir()
    path.write_bytes(content)
    assert mended(path, message) == text


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_named_and_the_command_unpacks_it(tmp_path, name):
    content, message, text = FORMATS[name]
    (tmp_path / name).write_bytes(content)
    assert mended(tmp_path / name, message) == text


def test_the_place_is_that_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "PIECE", 16)
    (tmp_path / "x.txt").write_bytes(b"What?\n" * 9 + b"caf\xe9\n")
    with pytest.raises(UserError, match=r"not UTF-8 at byte 57 \(0xe9\): it looks like CP1252"):
        text_of(tmp_path / "x.txt")


@pytest.mark.parametrize("text", ["PK\3\4", "BZh91AY", "GIF89a", "RIFF\n", "PAR1", "ID3 and OggS"])
def test_a_text_that_begins_as_a_format_does_is_a_text(tmp_path, text):
    (tmp_path / "x").write_text(text)
    assert text_of(tmp_path / "x") == text
