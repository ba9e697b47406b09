"""Prompts from a file or from standard input."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from input_pipeline import file_formats, text_files
from runtime.errors import UserError
from runtime.interactive import standard_input

STANDARD_INPUT = "-"
# A model sees the last `context_length` tokens only, and a device or a pipe may never end.
MAX_BYTES = 1 << 20


def name(path: str) -> str:
    """Returns what a message calls the source of a prompt."""
    return "standard input" if path == STANDARD_INPUT else path


def read(path: str) -> str:
    """Returns the text in a file, or in standard input for "-", without the line end at its end.

    Raises UserError for what can't be read, is not UTF-8, is empty, or exceeds MAX_BYTES.
    """
    where = Path(name(path))
    try:
        with _open(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise text_files.unreadable(error, where) from None
    if len(content) > MAX_BYTES:
        raise UserError(
            f"{where} has more than {MAX_BYTES:,} bytes: expected a prompt; a model sees the end "
            "of it only, so give that: tail -c 10000"
        )
    return decode(content, where)


def decode(content: bytes, where: Path) -> str:
    """Returns the text of a prompt, without the line end at its end.

    Raises UserError, naming `where`, for what is not UTF-8, or empty.
    """
    file_formats.check_head(where, content)
    text, _ = text_files.decode(content, where)
    # An editor ends the last line, and so does echo.
    text = text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")
    if not text:
        raise UserError(f"{where} is empty: expected a prompt, of at least one token")
    return text


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    if path != STANDARD_INPUT:
        with open(path, "rb") as file:
            yield file
        return
    if standard_input().isatty():
        print("the prompt, up to Ctrl-D on a line of its own:", file=sys.stderr, flush=True)
    yield standard_input().buffer
