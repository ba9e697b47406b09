"""Graceful stop: the first SIGINT or SIGTERM sets a flag, a second one ends the process.

Python runs a signal handler between two of its own instructions, but a run spends its time inside
JAX. So a thread reads signal numbers from a pipe (`signal.set_wakeup_fd`), which receives them at
once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from runtime import cluster
from runtime.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Request to stop, by the first signal that arrived here; of several processes, in any."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self.number = 0  # Of the signal that has arrived in this process.
        self._agreed = 0

    @property
    def requested(self) -> bool:
        """Returns True once a signal has arrived, and all processes know."""
        return self._agreed != 0

    def agree(self, number: int) -> None:
        """Takes the signal that all processes have agreed on, whichever of them it reached."""
        if not self.number:
            name = signal.Signals(number).name
            self._note(f"{name} in another process: saving after the current updates")
        self._agreed = number

    def raise_as(self, message: str) -> NoReturn:
        """Raises `message` as the exception whose exit code is that of the signal."""
        raise (Terminated if self._agreed == signal.SIGTERM else KeyboardInterrupt)(message)

    def listen(self, pipe: int) -> None:
        """Reads signal numbers from `pipe` until it is closed."""
        while numbers := os.read(pipe, 64):
            for number in numbers:
                if number not in SIGNALS:
                    continue
                if self.number:
                    os.write(2, b"stopped without saving; the last checkpoint is kept\n")
                    os._exit(128 + number)
                self.number = number
                if cluster.count() == 1:
                    self._agreed = number
                note = (
                    f"{signal.Signals(number).name}: saving after the current updates; a second "
                    "signal stops without saving"
                )
                # In a thread, because printing blocks if nobody reads the output.
                threading.Thread(target=self._note, args=(note,), daemon=True).start()


@contextlib.contextmanager
def on_request(note: Callable[[str], None]) -> Iterator[Stop]:
    """Yields a Stop that signals set during the block; `note(message)` tells the user.

    Python allows only the main thread to handle signals: in another, `requested` stays False.
    """
    stop = Stop(note)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    pipe, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end)
    # Python writes the number of a signal to the pipe only if the signal has a handler.
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
