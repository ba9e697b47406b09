"""Files: atomic writes (a temporary file, fsync, rename), the file of a flag, and pointers."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from runtime.errors import UserError

TEMPORARY = ".tmp"  # Suffix of a file while it is written.
POINTER = b"version https://git-lfs.github.com/spec/"  # Its first bytes.


def check_output(path: Path, flag: str = "--output") -> None:
    """Raises UserError unless a file can be written to `path`, the value of `flag`."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{flag}={path}: expected a file in a folder that can be written")


def write_output(path: Path, content: bytes, flag: str = "--output") -> None:
    """Writes the file that is the value of `flag`. Raises UserError if that fails."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{flag}={path} can't be written: {error.strerror}") from None


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yields a temporary file that replaces `path`, flushed to disk, when the block succeeds.

    Raises OSError, and leaves `path` as it was, if the disk fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Flushes a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_not_a_pointer(path: Path) -> None:
    """Raises UserError if `path` is what git leaves of a large file without git-lfs."""
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise UserError(
                    f"{path} is a git-lfs pointer, not the file itself: run `git lfs install && "
                    f"git lfs pull` in {path.parent}"
                )
