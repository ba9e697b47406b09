"""Text files: the files of a path, the sha256 of their bytes, and their text in two splits.

Files are read in pieces, so a text may be larger than memory. Line ends of all kinds stay as they
are; a byte order mark at the start of a file is dropped.
"""

import codecs
import contextlib
import functools
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from runtime.errors import UserError

# Bytes read at a time; the arrays computed from them are some ten times as large.
PIECE = 4 << 20
# A text, from its beginning, in pieces; each call reads it again.
Pieces = Callable[[], Iterable[str]]


def find(path: str) -> list[Path]:
    """Returns the file `path`, or the .txt files below it, sorted. Raises UserError for none."""
    if not path:
        raise UserError(
            "--config.data.name=text needs --config.data.path: a UTF-8 file or a folder of .txt"
        )
    if not os.path.isdir(path):
        return [Path(path)]
    files = [file for file in files_below(Path(path)) if file.suffix == ".txt"]
    if not files:
        raise UserError(f"--config.data.path={path}: no .txt file in this folder or below it")
    return files


def files_below(folder: Path) -> list[Path]:
    """Returns all files below `folder`, sorted. Raises UserError if one can't be listed."""

    def fail(error: OSError):
        raise _unreadable(error, folder) from None

    # Path.rglob would skip a folder that can't be read. os.walk follows no links to folders, so one
    # that leads back up does no harm.
    walk = os.walk(folder, onerror=fail)
    return sorted(Path(at, name) for at, _, names in walk for name in names)


def splits(text: Pieces, where: object) -> tuple[Pieces, Pieces]:
    """Returns train and val: the first 90 % of the characters, as in nanoGPT, and the rest.

    Raises UserError, naming `where`, when a split of an empty text is read.
    """

    @functools.cache
    def cut() -> int:
        length = sum(map(len, text()))
        if not length:
            raise UserError(f"{where} is empty: give a text with --config.data.path")
        return length * 9 // 10

    def part(first: int, stop: int) -> Iterator[str]:
        start = 0
        for piece in text():
            if inside := piece[max(first - start, 0) : stop - start]:
                yield inside
            start += len(piece)
            if start >= stop:
                return

    return lambda: part(0, cut()), lambda: part(cut(), sys.maxsize)


def pieces(files: list[Path]) -> Iterator[str]:
    """Yields the text of the concatenated files. Raises UserError as `decode` does."""
    for path in files:
        with _open(path) as file:
            begin, rest = 0, file.read(len(codecs.BOM_UTF8))
            if rest == codecs.BOM_UTF8:
                begin, rest = len(rest), b""
            while content := rest + (block := file.read(PIECE)):
                text, size = decode(content, path, begin, final=not block)
                yield text
                begin, rest = begin + size, content[size:]


def decode(content: bytes, where: object, begin: int = 0, final: bool = True) -> tuple[str, int]:
    """Returns the text of `content`, at byte `begin` of `where`, and the number of bytes decoded.

    Unless `final`, a character that is cut off at the end of `content` is left out. Raises
    UserError, naming the byte, for what is not UTF-8, and for a NUL, which no text contains.
    """
    try:
        text, size = codecs.utf_8_decode(content, "strict", final)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 at byte {begin + error.start} ({content[error.start]:#04x}): "
            "convert it, for instance with iconv -f latin1 -t utf-8"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{where} is not a text, but binary or UTF-16: byte {begin + content.index(0)} is 0x00"
        )
    return text, size


def digest(files: list[Path]) -> str:
    """Returns the sha256 of the concatenated files. Raises UserError for an unreadable one."""
    sha256 = hashlib.sha256()
    for path in files:
        with _open(path) as file:
            hashlib.file_digest(file, lambda: sha256)
    return sha256.hexdigest()


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BufferedReader]:
    """Yields a file to read. Raises UserError if it can't be read, then or in the block.

    A device or a pipe is refused: it may never end, and can't be read a second time.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a regular file: check --config.data.path")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise _unreadable(error, path) from None


def _unreadable(error: OSError, path: Path) -> UserError:
    where = error.filename or path
    return UserError(f"{where} can't be read ({error.strerror}): check --config.data.path")
