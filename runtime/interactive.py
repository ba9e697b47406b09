"""Lines that a user types, or that another program pipes in; Ctrl-C stops the answer to one."""

import contextlib
import io
import signal
import sys
from typing import TextIO

from runtime.errors import UserError


def standard_input() -> TextIO:
    """Returns standard input. Raises UserError if the process has none."""
    if sys.stdin is None:
        raise UserError("standard input is closed: give a file, or start the command without <&-")
    return sys.stdin


class Lines:
    """Lines of standard input: at a terminal with a mark before each, and a history.

    Ctrl-C at a terminal discards the line that is being typed, or sets `stopped` until the next
    one. In a pipe nobody types: there are no marks, and Ctrl-C ends the process as ever.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._is_typing = False
        self._input = standard_input()
        # So that a byte that is not UTF-8 spoils its own line alone.
        if isinstance(self._input, io.TextIOWrapper):
            self._input.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
        self.is_terminal = self._input.isatty()
        # Python edits lines only if it can write to the terminal, too.
        self._is_edited = self.is_terminal and sys.stdout.isatty()
        if self._is_edited:
            with contextlib.suppress(ImportError):  # Some builds of Python lack it.
                import readline  # noqa: F401
        if self.is_terminal:
            signal.signal(signal.SIGINT, self._on_interrupt)

    def read(self, mark: str) -> bytes | None:
        """Returns the next line without its end, or None at the end of input."""
        self.stopped = False
        while True:
            try:
                self._is_typing = True
                line = self._line(mark)
                self._is_typing = False
                return line.encode("utf-8", "surrogateescape")
            except _Interrupt:
                self._end_line()
            except EOFError:
                self._is_typing = False
                if self.is_terminal:
                    self._end_line()
                return None

    def _line(self, mark: str) -> str:
        if self._is_edited:
            return input(mark)
        if self.is_terminal:
            print(mark, end="", file=sys.stderr, flush=True)
        if not (line := self._input.readline()):
            raise EOFError
        return line.removesuffix("\n")

    def _end_line(self) -> None:
        print(file=sys.stdout if self._is_edited else sys.stderr, flush=True)

    def _on_interrupt(self, *_) -> None:
        if self._is_typing:
            self._is_typing = False
            raise _Interrupt
        self.stopped = True


class _Interrupt(Exception):
    """Ctrl-C while a line is typed."""
