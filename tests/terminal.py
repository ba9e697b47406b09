"""Runs a command at a pseudo-terminal, as a user does who types and presses Ctrl-C."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

from tests.command import PATIENCE, ROOT, state_of, wait_until

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
# Makes standard input the terminal of the new session, to whose processes Ctrl-C sends SIGINT.
IN_FRONT = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
ESCAPE_SEQUENCES = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]")


class Terminal:
    """A command with a terminal; `output` takes its standard output out of it, into a file."""

    def __init__(
        self, *command: str, columns: int = 80, output: Path | None = None, **environment: str
    ) -> None:
        self._screen, inside = pty.openpty()
        termios.tcsetwinsize(inside, (24, columns))
        self._seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_FRONT, *command],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment},
            stdin=inside,
            stdout=output.open("wb") if output else inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)

    def type(self, text: str) -> None:
        """Sends keys to the command."""
        os.write(self._screen, text.encode())

    def interrupt(self, words: str) -> None:
        """Presses Ctrl-C until `words` are shown.

        Once is enough but for microseconds, in which a busy machine can halt either side: Python
        has looked for signals and does not wait for a key yet, or the kernel sends the signal and
        then discards what is shown, the answer with it.
        """
        for _ in range(3):
            self.type(CTRL_C)
            with contextlib.suppress(TimeoutError):
                self.until(words, seconds=20)
                return
        raise AssertionError(f"{words!r} is not in {self._shown()!r}, after Ctrl-C")

    def terminate(self) -> None:
        """Sends SIGTERM, once the command waits for a key: before, it might begin to wait after."""
        wait_until(lambda: state_of(self.process.pid) == "S")
        self.process.send_signal(signal.SIGTERM)

    def until(self, words: str, seconds: float = PATIENCE) -> str:
        """Returns what is shown up to `words`, without escape sequences; the next call goes on.

        Raises AssertionError if the command ends before, TimeoutError if it shows nothing for so
        many seconds.
        """
        while words not in (shown := self._shown()):
            assert self._read(seconds), f"{words!r} is not in {shown!r}"
        _, _, rest = shown.partition(words)
        self._seen = rest.encode()
        return shown.removesuffix(rest)

    def end(self) -> tuple[int, str]:
        """Returns the exit code, and what is shown up to the end."""
        while self._read():
            pass
        os.close(self._screen)
        return self.process.wait(timeout=PATIENCE), self._shown()

    def _shown(self) -> str:
        text = self._seen.decode(errors="ignore").replace("\r\n", "\n")
        return ESCAPE_SEQUENCES.sub("", text)

    def _read(self, seconds: float = PATIENCE) -> bool:
        ready, _, _ = select.select([self._screen], [], [], seconds)
        if not ready:
            raise TimeoutError(f"nothing for {seconds} seconds after {self._shown()!r}")
        try:
            block = os.read(self._screen, 65536)
        except OSError:  # Nobody is at the other end.
            return False
        self._seen += block
        return bool(block)
