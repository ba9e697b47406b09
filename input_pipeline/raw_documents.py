"""Documents of files as they come: text, JSON lines and Parquet, also compressed, of any size.

documents.py reads a text of one's own, and stops at the first bad record. A large corpus has some:
here they are counted and left out, up to a limit.
"""

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from input_pipeline import documents, file_formats, text_files, text_paths
from runtime.errors import UserError

END = "<|endoftext|>"  # Between two documents of a text file, and after each document's tokens.
COMPRESSED = (".gz", ".zst", ".zstd")
# Characters of a longer document of a text file, which is cut between words; only the last part is
# followed by END.
MOST = 8 << 20
SHOWN = 5  # Bad lines that are shown.


class Document(NamedTuple):
    """Text of a document, or a part of a long one; `ends` is True for the last part."""

    text: str
    ends: bool = True


def find(path: str, key: str) -> list[Path]:
    """Returns the files that `path` names, the value of `key`; of folders those that can be read.

    Raises UserError for none.
    """
    return text_paths.find(path, key, "all", takes=lambda file: is_taken(inner_name(file))).files


def inner_name(path: Path) -> Path:
    """Returns the name of what a compressed file holds, or `path` itself."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def is_taken(path: Path) -> bool:
    """Returns True for a file that a folder's other files do not hide: text and records."""
    return path.suffix.lower() == text_paths.SUFFIX or documents.has_records(path)


class Reader:
    """Reads files once, and counts what it reads and what it leaves out."""

    def __init__(self, files: list[Path], field: str, max_bad: int) -> None:
        self._files = files
        self._field = field
        self._max_bad = max_bad
        self._done = 0  # Bytes of the files before this one.
        self._file: IO[bytes] | None = None
        self.total = sum(file.stat().st_size for file in files if file.is_file())
        self.bad = 0
        self.shown: list[str] = []  # The first bad lines.

    @property
    def position(self) -> int:
        """Returns the bytes of the files that have been read."""
        return self._done + (self._file.tell() if self._file else 0)

    def documents(self) -> Iterator[Document]:
        """Yields the documents that are not empty, in the order of the files.

        Raises UserError for a file that can't be read, and for more bad lines than allowed.
        """
        for path in self._files:
            inner = inner_name(path)
            if inner.suffix.lower() == documents.PARQUET:
                found = self._of_parquet(path)
            elif documents.has_records(inner):
                found = self._of_lines(path)
            else:
                found = of_text(self._decoded(path))
            yield from (document for document in found if document.text)
            self._done += path.stat().st_size

    def _blocks(self, path: Path) -> Iterator[bytes]:
        """Yields what a file holds, unpacked. Raises UserError where it can't be read."""
        try:
            with open(path, "rb") as self._file, _unpacked(path, self._file) as file:
                while block := file.read(text_files.PIECE):
                    yield block
        # EOFError: a gzip file that ends too early.
        except (OSError, EOFError, zlib.error) as error:
            said = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise UserError(f"{path} can't be read ({said}): copy it again") from None
        finally:
            self._file = None

    def _decoded(self, path: Path) -> Iterator[str]:
        """Yields the text of a file. Raises UserError for what is not UTF-8."""
        rest, begin = b"", 0
        for block in self._blocks(path):
            if not begin:
                file_formats.check_head(path, block)
                block = block.removeprefix(b"\xef\xbb\xbf")
            content = rest + block
            text, size = text_files.decode(content, path, begin, final=False)
            rest, begin = content[size:], begin + size
            yield text
        yield text_files.decode(rest, path, begin)[0]

    def _of_lines(self, path: Path) -> Iterator[Document]:
        for number, line in enumerate(_lines(self._blocks(path)), 1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    self._leave_out(f"{where} is no JSON object: {error}")
                    continue
                yield from self._of_record(where, record)

    def _of_parquet(self, path: Path) -> Iterator[Document]:
        for where, record in documents.rows(path, [self._field]):
            yield from self._of_record(where, record)

    def _of_record(self, where: str, record: Any) -> Iterator[Document]:
        text: Any = record.get(self._field) if isinstance(record, dict) else None
        if documents.is_text(text):
            yield Document(text)
        else:
            found = ", ".join(record) if isinstance(record, dict) else repr(record)
            self._leave_out(f"{where} has no text in a field {self._field!r}: {found:.60}")

    def _leave_out(self, reason: str) -> None:
        self.bad += 1
        if len(self.shown) < SHOWN:
            self.shown.append(reason)
        if self.bad > self._max_bad:
            raise UserError(
                f"{reason}; that is bad line {self.bad}, and --max_bad={self._max_bad}: mend them, "
                "name the right --field, or raise --max_bad"
            )


@contextlib.contextmanager
def _unpacked(path: Path, file: IO[bytes]) -> Iterator[Any]:
    """Yields the content of an open file to read, unpacked if its name says that it is packed."""
    packed = path.suffix.lower()
    if packed == ".gz":
        with gzip.open(file) as unpacked:
            yield unpacked
    elif packed in COMPRESSED:
        import pyarrow

        with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd") as unpacked:
            yield unpacked
    else:
        yield file


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest


def of_text(pieces: Iterator[str]) -> Iterator[Document]:
    """Yields the documents of a text file: what stands between two END, or all of it."""
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split(END)
        yield from map(Document, whole)
        while len(rest) > MOST + len(END):  # Its end may be the beginning of an END.
            cut = rest.rfind(" ", 0, MOST)
            cut = cut if cut > 0 else MOST
            yield Document(rest[:cut], ends=False)
            rest = rest[cut:]
    yield Document(rest)


def request(files: list[Path]) -> list[list[Any]]:
    """Returns the files by which a preparation that goes on knows its input again."""
    found = ((os.path.abspath(file), file.stat()) for file in files)
    return [[name, status.st_size, status.st_mtime_ns] for name, status in found]
