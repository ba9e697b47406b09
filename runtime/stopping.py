"""Stopping on request: the first SIGINT or SIGTERM is remembered, a second one ends the process.

Python runs a handler only between two of its own instructions, and a run spends its time inside
JAX. So a thread listens: the system writes the number of each signal to a pipe, at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from runtime.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether this process has been asked to stop, and by which signal."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._number = 0

    @property
    def requested(self) -> bool:
        """Whether it has."""
        return self._number != 0

    def raise_as(self, message: str) -> None:
        """Raises what ends the command with the exit code of that signal, and a message."""
        raise (Terminated if self._number == signal.SIGTERM else KeyboardInterrupt)(message)

    def listen(self, pipe: int) -> None:
        """Until the pipe is closed: takes in the numbers of signals."""
        while numbers := os.read(pipe, 64):
            for number in numbers:
                if number not in SIGNALS:
                    continue
                if self._number:
                    os.write(2, b"error: stopped at once; the last checkpoint is kept\n")
                    os._exit(128 + number)
                self._number = number
                note = (
                    f"{signal.Signals(number).name}: saving after the updates that are under way; "
                    "a second one stops at once"
                )
                # Whoever reads what is printed may have stopped reading; a second one still counts.
                threading.Thread(target=self._note, args=(note,), daemon=True).start()


@contextlib.contextmanager
def on_request(note: Callable[[str], None]) -> Iterator[Stop]:
    """A Stop that the signals set for as long as the block lasts; `note` tells a person so.

    Only the main thread of a process may listen to signals: in another, nothing is ever requested.
    """
    stop = Stop(note)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    pipe, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end)
    # A handler has to be there for the number to be written.
    handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    thread = threading.Thread(target=stop.listen, args=(pipe,), daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(write_end)
        thread.join()
        os.close(pipe)
