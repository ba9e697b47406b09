"""Text files: which ones a path means, the digest of their bytes, their text in two splits."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from errors import UserError


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
        # Path.rglob would pass over a folder that can't be read.
        walk = os.walk(folder, onerror=fail)
        return sorted(Path(at, name) for at, _, names in walk for name in names)


def read(files: list[Path], where: str) -> tuple[str, str]:
    """Train and val text of all files in a row. Raises UserError for no text or not UTF-8."""
    return cut_text("".join(decode(file.read_bytes(), file) for file in files), where)


def decode(content: bytes, where: object) -> str:
    """`content` as text. Raises UserError, naming `where` and the byte, if it is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 at byte {error.start} ({content[error.start]:#04x}): convert "
            "it, for instance with iconv -f latin1 -t utf-8"
        ) from None


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
        with _readable(path), open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha256.update(block)
    return sha256.hexdigest()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path} can't be read ({error.strerror}): check --config.data.path"
        ) from None
