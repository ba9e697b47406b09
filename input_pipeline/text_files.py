"""Text files: their text in pieces and in two splits, and its sha256.

Files are read in pieces, so a text may be larger than memory. Line ends of all kinds stay as they
are, and a file without one at its end gets one before the next file; a byte order mark at the start
of a file is dropped.
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
from typing import NamedTuple

from input_pipeline import file_formats
from runtime.errors import UserError

# Bytes read at a time; the arrays computed from them are some ten times as large.
PIECE = 4 << 20
# A text, from its beginning, in pieces; each call reads it again.
Pieces = Callable[[], Iterable[str]]


def files_below(folder: Path) -> list[Path]:
    """Returns all files below `folder`, sorted. Raises UserError if one can't be listed."""

    def fail(error: OSError):
        raise unreadable(error, folder) from None

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
            raise UserError(f"{where} is empty: expected a text")
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


class Block(NamedTuple):
    """Bytes of a file from byte `begin` on; a file ends with an empty block."""

    path: Path
    begin: int
    content: bytes


def pieces(path: Path) -> Iterator[str]:
    """Yields the text of a file. Raises UserError as `decode` does, and for an unreadable file."""
    rest = b""
    for _, begin, block in blocks([path]):
        if begin == 0:
            file_formats.check_head(path, block)
        content = rest + block
        text, size = decode(content, path, begin - len(rest), final=not block)
        rest = content[size:]
        if text:
            yield text


def blocks(files: list[Path]) -> Iterator[Block]:
    """Yields the bytes of the files, with a line end between two.

    Raises UserError for an unreadable file.
    """
    ends_line = True
    for path in files:
        with _open(path) as file:
            has_mark = file.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8)
            begin = file.seek(len(codecs.BOM_UTF8) if has_mark else 0)
            block = file.read(PIECE)
            if block and not ends_line:
                yield Block(path, begin, b"\n")
            while block:
                yield Block(path, begin, block)
                begin += len(block)
                ends_line = block.endswith((b"\n", b"\r"))
                block = file.read(PIECE)
            yield Block(path, begin, b"")


def decode(content: bytes, where: object, begin: int = 0, final: bool = True) -> tuple[str, int]:
    """Returns the text of `content`, at byte `begin` of `where`, and the number of bytes decoded.

    Unless `final`, a character that is cut off at the end of `content` is left out. Raises
    UserError, naming the byte, for what is not UTF-8, and for a NUL, which no text contains.
    """
    try:
        text, size = codecs.utf_8_decode(content, "strict", final)
    except UnicodeDecodeError as error:
        raise file_formats.refusal(where, content, begin, error.start) from None
    if "\0" in text:
        raise file_formats.refusal(where, content, begin, content.index(0))
    return text, size


def digest(files: list[Path]) -> str:
    """Returns the sha256 of the concatenated files, byte for byte. Raises UserError as `_open`."""
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
            raise UserError(f"{path} is not a regular file: check the path")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise unreadable(error, path) from None


def unreadable(error: OSError, path: Path) -> UserError:
    """Returns the error for a file or folder that the system does not let us read."""
    where = error.filename or path
    return UserError(f"{where} can't be read ({error.strerror}): check the path")
