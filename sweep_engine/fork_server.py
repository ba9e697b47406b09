"""A process that has JAX and the harness imported, and forks each run of a sweep from itself.

A run then starts in milliseconds instead of two seconds, and still is a process of its own: it may
crash, be killed or be stopped, and no other notices. No thread of ours and no device of JAX's
exists here, which is what makes forking safe. workers.py starts it with the names of the modules to
import, and speaks with it, one JSON object a line:

    -> {"start": name, "argv", "environment", "cores", "log", "lock"}
    -> {"signal": name, "number": 15}
                                        <- {"ended": name, "code": 0}

When its standard input ends, whoever ran the sweep is gone: it kills the runs and ends.
"""

import ctypes
import fcntl
import importlib
import json
import os
import runpy
import selectors
import signal
import sys
import traceback
from pathlib import Path

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, linux/prctl.h


def main() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    answers = os.dup(1)
    os.dup2(2, 1)
    server = ForkServer(answers)
    server.serve()


class ForkServer:
    """Starts, signals and reaps runs, by name."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._names: dict[int, str] = {}  # By process.
        self._unread = b""
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        # A handler has to be there for the wake-up to be written.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)
        # Ctrl-C on the terminal, or the end of a session: the sweep decides what becomes of runs.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def serve(self) -> None:
        """Until standard input ends."""
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if 0 in ready:
                received = os.read(0, 65536)
                if not received:
                    break
                *lines, self._unread = (self._unread + received).split(b"\n")
                for line in lines:
                    self._act(json.loads(line))
        for process in self._names:
            os.killpg(process, signal.SIGKILL)

    def _act(self, request: dict) -> None:
        if "start" in request:
            request["server"] = os.getpid()
            process = os.fork()
            if process == 0:
                self._become(request)
            self._names[process] = request["start"]
            return
        for process, name in self._names.items():
            # Not reaped, so the number is still this run's.
            if name == request["signal"]:
                everything = request["number"] == signal.SIGKILL
                (os.killpg if everything else os.kill)(process, request["number"])

    def _reap(self) -> None:
        while self._names:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            self._answer({"ended": self._names.pop(process), "code": code})

    def _answer(self, message: dict) -> None:
        os.write(self._answers, json.dumps(message).encode() + b"\n")

    def _become(self, request: dict) -> None:
        """In the new process: does what the request says, and ends."""
        code = 1
        try:
            os.setsid()
            for descriptor in (self._answers, self._woken, self._wake):
                os.close(descriptor)
            become(request)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # Not up through the server's own loop.
            os._exit(code)


def become(request: dict) -> None:
    """Turns this process into the run that `request` describes.

    A Python program is run here, where what it imports is there already; any other takes the place
    of this process.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        # For the case that the server itself is killed.
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != request["server"]:
        return  # It was killed just before.
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor, target in ((log, 1), (log, 2), (os.open(os.devnull, os.O_RDONLY), 0)):
        os.dup2(descriptor, target)
    # Held until this process is gone, however it goes: a sweep that is killed and started again
    # never has two processes work on one run.
    lock = os.open(request["lock"], os.O_CREAT | os.O_RDWR, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    os.environ.clear()
    os.environ.update(request["environment"])
    argv = request["argv"]
    if argv[0] != sys.executable or len(argv) < 2 or not argv[1].endswith(".py"):
        os.execvp(argv[0], argv)
    sys.argv = argv[1:]
    sys.path[0] = str(Path(argv[1]).absolute().parent)
    runpy.run_path(argv[1], run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    main()
