"""Files that are not UTF-8 text: their format or encoding, and the command that converts them."""

import os
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runtime.errors import UserError


def _unpacked(path: Path) -> Path:
    return path if path.suffix.lower() == ".txt" else path.with_suffix("")


def _folder(path: Path) -> Path:
    return path.with_suffix("") if path.suffix else Path(f"{path}.d")


def _as_text(path: Path) -> Path:
    return path.with_suffix(".txt")


class Format(NamedTuple):
    """Format of a file, recognized by its first bytes.

    `command` writes what {file} holds to {new}; `result(file)` is the name that it should have.
    """

    name: str
    magic: bytes
    command: str = ""
    result: Callable[[Path], Path] = _as_text
    offset: int = 0


PANDOC = "pandoc -t plain --wrap=none {file} -o {new}"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Their first bytes are ASCII, and so may be all the others.
ASCII_FORMATS = (
    Format("a PDF", b"%PDF-", "pdftotext {file} {new}"),
    Format("an RTF document", rb"{\rtf", PANDOC),
    Format("a pointer of git-lfs to a file that was not fetched", LFS_POINTER, "git lfs pull"),
)
# The numbers and words are those of the file(1) database. Where one begins with another, the longer
# one comes first.
FORMATS = (
    *ASCII_FORMATS,
    Format("gzip", b"\x1f\x8b", "gzip -dc {file} > {new}", _unpacked),
    Format("compress (.Z)", b"\x1f\x9d", "gzip -dc {file} > {new}", _unpacked),
    Format("bzip2", b"BZh", "bzip2 -dc {file} > {new}", _unpacked),
    Format("xz", b"\xfd7zXZ\0", "xz -dc {file} > {new}", _unpacked),
    Format("zstd", b"\x28\xb5\x2f\xfd", "zstd -dc {file} > {new}", _unpacked),
    Format("lz4", b"\x04\x22\x4d\x18", "lz4 -dc {file} > {new}", _unpacked),
    Format("a zip archive", b"PK\3\4", "unzip {file} -d {new}", _folder),
    Format("a tar archive", b"ustar", "mkdir {new} && tar -xf {file} -C {new}", _folder, 257),
    Format("a 7z archive", b"7z\xbc\xaf\x27\x1c", "7z x {file} -o{new}", _folder),
    Format("a RAR archive", b"Rar!\x1a\7", "unrar x {file} {new}/", _folder),
    Format(
        "an Office document of before 2007",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "soffice --cat {file} > {new}",
    ),
    Format(
        "a Parquet file",
        b"PAR1",
        "mv {file} {new}",
        lambda path: path.with_suffix(".parquet"),
    ),
    Format("an Arrow file", b"ARROW1"),
    Format("an SQLite database", b"SQLite format 3\0"),
    Format("a NumPy array", b"\x93NUMPY"),
    Format("an HDF5 file", b"\x89HDF\r\n\x1a\n"),
    Format("a PNG image", b"\x89PNG\r\n\x1a\n"),
    Format("a JPEG image", b"\xff\xd8\xff"),
    Format("a GIF image", b"GIF8"),
    Format("a TIFF image", b"II*\0"),
    Format("a WebP image, or audio, or video", b"RIFF"),
    Format("a recording in MP3", b"ID3"),
    Format("a recording in Ogg", b"OggS"),
    Format("a recording in FLAC", b"fLaC"),
    Format("a video", b"ftyp", offset=4),
    Format("a program", b"\x7fELF"),
)
# Zip archives by a name that is in them.
ZIPPED = {
    "word/document.xml": Format("a Word document", b"", PANDOC),
    "xl/workbook.xml": Format(
        "an Excel sheet", b"", "soffice --convert-to csv --outdir {new} {file}", _folder
    ),
    "META-INF/container.xml": Format("an EPUB book", b"", PANDOC),
    "content.xml": Format("an OpenDocument text", b"", PANDOC),
}
BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
# Python's name and iconv's, of encodings that texts are still written in.
ENCODINGS = {
    **{f"cp{page}": f"CP{page}" for page in (866, 874, 932, 949, *range(1250, 1259))},
    "gb18030": "GB18030",
    "big5": "BIG5",
    "euc_jp": "EUC-JP",
    "koi8_r": "KOI8-R",
    "mac_roman": "MACINTOSH",
}
WIDE = ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")
MAX_UTF8_LENGTH = 4
REST = "the rest is UTF-8"
REPLACED = "\N{REPLACEMENT CHARACTER}"
# iconv fails if it has left something out.
DROP = "iconv -c -f UTF-8 -t UTF-8 {file} > {new} || true"
# Bytes before and after the first wrong one from which the encoding is guessed.
SAMPLE = 1 << 14


def check_head(path: Path, head: bytes) -> None:
    """Raises UserError if a file that may be UTF-8 begins as a document does."""
    for form in ASCII_FORMATS:
        if head.startswith(form.magic):
            raise UserError(f"{path} is {form.name}, not a text{_advice(path, form)}")


def refusal(where: object, content: bytes, begin: int, wrong: int) -> UserError:
    """Returns the error for `content`, at byte `begin` of `where`, whose byte `wrong` is no text.

    It names the format or the encoding, and for a file the command that makes it UTF-8.
    """
    path, place = Path(str(where)), begin + wrong
    kind = "UTF-8" if content[wrong] else "a text"
    byte = f"byte {place} ({content[wrong]:#04x})"
    if path.is_file():
        with open(path, "rb") as file:
            if form := _recognize(path, file.read(SAMPLE)):
                return UserError(f"{where} is {form.name}, not a text{_advice(path, form)}")
            begin = file.seek(max(place - SAMPLE, 0))
            content = file.read(2 * SAMPLE)
    form = _encoding(content, begin, place - begin)
    return UserError(f"{where} is not {kind} at {byte}: {form.name}{_advice(path, form)}")


def _recognize(path: Path, head: bytes) -> Format | None:
    """Returns the format that the first bytes of a file show, if any does."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return _from(encoding)._replace(name=encoding)
    for form in FORMATS:
        if head.startswith(form.magic, form.offset):
            if form.magic == b"PK\3\4" and zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    names = set(archive.namelist())
                return next((ZIPPED[name] for name in ZIPPED if name in names), form)
            return form
    return None


def _encoding(near: bytes, begin: int, wrong: int) -> Format:
    """Returns a guess at an encoding that no byte order mark names.

    `near` is a part of a file from byte `begin` on; its byte `wrong` is not UTF-8.
    """
    text = near.replace(b"\0", b"").decode("utf-8", "replace")
    is_utf8 = sum(char > "\x7f" for char in text) >= 2 * text.count(REPLACED)
    zeros = near.count(0)
    if zeros > len(near) / 10 or (zeros and not (is_utf8 and _is_readable(text))):
        return _wide(near[-begin % 4 :])
    if not is_utf8:
        return _code_page(near, wrong)
    if near[wrong] == 0:
        return _in_place("a NUL: leave it out", r"tr -d '\000' < {file} > {new}")
    rest = near[wrong + 1 :]
    ends = len(rest) < MAX_UTF8_LENGTH and all(byte & 0xC0 == 0x80 for byte in rest)
    return _in_place(f"{'it ends within a character' if ends else REST}: leave it out", DROP)


def _wide(sample: bytes) -> Format:
    """Returns a guess at an encoding of 2 or 4 bytes a character, from a sample that begins one."""
    texts = {name: sample.decode(name, "replace") for name in WIDE}
    possible = {
        name: len({ord(char) >> 8 for char in text})
        for name, text in texts.items()
        if "\0" not in text and text.count(REPLACED) <= 2  # Two may be cut at the ends.
    }
    if not possible:
        return BINARY
    # A text has characters of few pages of Unicode; swapped bytes have many.
    name = min(possible, key=possible.__getitem__)
    return _from(name) if _is_readable(texts[name]) else BINARY


def _is_readable(text: str) -> bool:
    return sum(char.isprintable() or char.isspace() for char in text) > 0.95 * len(text)


def _code_page(near: bytes, wrong: int) -> Format:
    """Returns a guess at an encoding of ASCII and more, by the characters that a text has."""
    import charset_normalizer  # Imported here because only refused files need it.

    lines = near[near.rfind(b"\n", 0, wrong) + 1 :]
    sample = lines[: lines.rfind(b"\n") + 1] or lines
    guesses = charset_normalizer.from_bytes(sample, cp_isolation=list(ENCODINGS))
    best = guesses.best()
    alike = [guess.encoding for guess in guesses] + (best.could_be_from_charset if best else [])
    # A few accents or quotation marks fit many code pages, of which Windows' is the commonest.
    name = best.encoding if best and "cp1252" not in alike else "cp1252"
    try:
        line = sample.partition(b"\n")[0].decode(name)
    except UnicodeDecodeError:
        return BINARY
    first = next(place for place, char in enumerate(line) if char > "\x7f")
    return _from(ENCODINGS[name], f" and reads {line[max(first - 20, 0) : first + 20]!r}")


def _from(encoding: str, more: str = "") -> Format:
    command = f"iconv -f {encoding} -t UTF-8 {{file}} > {{new}}"
    return _in_place(f"it looks like {encoding}{more}", command)


def _in_place(name: str, command: str) -> Format:
    return Format(name, b"", command, lambda path: path)


BINARY = Format("it looks binary", b"")


def _advice(path: Path, form: Format) -> str:
    """Returns the end of a message: the command that makes a text of the file, if there is one."""
    if not form.command or not os.path.isfile(path):
        return ": give a text"
    result = form.result(path)
    new = Path(f"{path}.new") if result == path else result
    command = form.command.format(file=shlex.quote(str(path)), new=shlex.quote(str(new)))
    if "{new}" not in form.command:
        return f": run {command}"
    if new != result:
        return f": run {command} && mv {shlex.quote(str(new))} {shlex.quote(str(path))}"
    return f": run {command} and give {result}"
