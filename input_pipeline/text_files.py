"""Text files: which ones a path means, the digest of their bytes, their text in two splits.

Files are read in pieces, so one that is larger than the memory is as good as a small one. Their
text is taken as it is, line ends of all kinds included; only a byte order mark at the start is not
part of it.
"""

import codecs
import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime.errors import UserError

# Bytes that are read at a time; what is made of them is some ten times as large.
PIECE = 4 << 20
# A text, from its beginning, in pieces; each call reads it again.
Pieces = Callable[[], Iterator[str]]


def find(path: str) -> list[Path]:
    """The file `path`, or the .txt files of the folder `path` at any depth, sorted.

    Raises UserError for an empty path and for a folder that holds none or can't be listed.
    """
    if not path:
        raise UserError(
            "--config.data.name=text needs --config.data.path: a UTF-8 file or a folder of .txt"
        )
    if not os.path.isdir(path):
        return [Path(path)]
    files = [file for file in below(Path(path)) if file.suffix == ".txt"]
    if not files:
        raise UserError(f"--config.data.path={path}: no .txt file in this folder or below it")
    return files


def below(folder: Path) -> list[Path]:
    """All files below `folder`, sorted. Raises UserError for a folder that can't be listed."""

    def fail(error: OSError):
        raise error

    with _readable(folder):
        # Path.rglob would pass over a folder that can't be read. Links to folders are not followed,
        # so one that leads back up does no harm.
        walk = os.walk(folder, onerror=fail)
        return sorted(Path(at, name) for at, _, names in walk for name in names)


def splits(files: list[Path], where: str) -> tuple[Pieces, Pieces]:
    """Train and val text of all files in a row: the first 90 % of the characters, and the rest.

    Raises UserError for no text, and, here or while it is read, for what is not UTF-8 text.
    """

    @functools.cache
    def cut() -> int:
        length = sum(map(len, pieces(files)))
        if not length:
            raise UserError(f"{where} is empty: give a text with --config.data.path")
        return length * 9 // 10

    def part(first: int, stop: float) -> Iterator[str]:
        start = 0
        for piece in pieces(files):
            inside = piece[max(first - start, 0) : max(min(stop - start, len(piece)), 0)]
            if inside:
                yield inside
            start += len(piece)
            if start >= stop:
                return

    return lambda: part(0, cut()), lambda: part(cut(), float("inf"))


def pieces(files: list[Path]) -> Iterator[str]:
    """The text of all files in a row. Raises UserError, naming file and byte, where it is none."""
    for path in files:
        with open_file(path) as file:
            begin, rest = 0, file.read(3)
            if rest == codecs.BOM_UTF8:
                begin, rest = 3, b""
            while content := rest + (block := file.read(PIECE)):
                end = _whole_characters(content) if block else len(content)
                yield decode(content[:end], path, begin)
                begin, rest = begin + end, content[end:]


def decode(content: bytes, where: object, begin: int = 0) -> str:
    """`content`, which starts at byte `begin` of `where`, as text.

    Raises UserError, naming the byte, if it is not UTF-8, or if it holds a NUL, as no text does.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 at byte {begin + error.start} ({content[error.start]:#04x}): "
            "convert it, for instance with iconv -f latin1 -t utf-8"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{where} is not a text, but binary or UTF-16: byte {begin + content.index(0)} is 0x00"
        )
    return text


def cut_text(text: str, where: object) -> tuple[str, str]:
    """The first 90 % of the characters to train on, as nanoGPT cuts, and the rest.

    Raises UserError, naming `where`, if there are none.
    """
    if not text:
        raise UserError(f"{where} is empty: give a text with --config.data.path")
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def digest(files: list[Path]) -> str:
    """The sha256 of all the files' bytes in a row. Raises UserError for an unreadable one."""
    sha256 = hashlib.sha256()
    for path in files:
        with open_file(path) as file:
            while block := file.read(1 << 20):
                sha256.update(block)
    return sha256.hexdigest()


@contextlib.contextmanager
def open_file(path: Path):
    """A file to read. Raises UserError if it can't be read, then or in the block.

    A device or a pipe is refused: it may never end, and can't be read a second time.
    """
    with _readable(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a regular file: check --config.data.path")
        with open(path, "rb") as file:
            yield file


def _whole_characters(content: bytes) -> int:
    """How many bytes of `content` to decode now: all but a character that is cut off at its end."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0b1100_0000 != 0b1000_0000:  # The first byte of a character.
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(content) - (back if length > back else 0)
    return len(content)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path} can't be read ({error.strerror}): check --config.data.path"
        ) from None
