"""Fork server: a process that has JAX and the harness imported, and forks each run from itself.

A run starts in milliseconds instead of two seconds, yet is a process of its own that can crash or
be killed without harm to others. Forking is safe because the server has started no thread and
initialized no JAX device. workers.py starts it with the names of the modules to import, and they
exchange JSON objects, one a line:

    -> {"start": name, "argv", "environment", "cores", "log", "lock"}
    -> {"signal": name, "number": 15}
                                        <- {"ended": name, "code": 0}

When its standard input ends, the sweep is gone: the server kills the runs and exits.
"""

import contextlib
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
from typing import Any, NoReturn

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, linux/prctl.h


def main() -> None:
    for module in sys.argv[1:]:
        # A module that can't be imported fails in each run, which says why.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    answers = os.dup(1)
    os.dup2(2, 1)
    ForkServer(answers).serve()


class ForkServer:
    """Server that starts, signals and reaps runs, by name."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._names: dict[int, str] = {}  # By process id.
        self._unread = b""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        # The wake-up byte is written only if the signal has a handler.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)
        # On Ctrl-C, or the end of a session, the sweep decides what happens to runs.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def serve(self) -> None:
        """Handles requests until standard input ends."""
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
                    self._handle(json.loads(line))
        for process in self._names:
            os.killpg(process, signal.SIGKILL)

    def _handle(self, request: dict[str, Any]) -> None:
        if "start" in request:
            request["server"] = os.getpid()
            process = os.fork()
            if process == 0:
                self._run_child(request)
            self._names[process] = request["start"]
            return
        for process, name in self._names.items():
            # Not reaped yet, so no other process can have this id.
            if name == request["signal"]:
                send = os.killpg if request["number"] == signal.SIGKILL else os.kill
                send(process, request["number"])

    def _reap(self) -> None:
        while self._names:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            answer = {"ended": self._names.pop(process), "code": code}
            os.write(self._answers, json.dumps(answer).encode() + b"\n")

    def _run_child(self, request: dict[str, Any]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            for descriptor in (self._answers, self._woken, self._wake):
                os.close(descriptor)
            execute(request)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # Never returns into the server's loop.


def execute(request: dict[str, Any]) -> None:
    """Executes the run that `request` describes in this process.

    A Python program runs inside it, with its modules already imported; any other replaces it.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        # Kills the run if the server is killed.
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != request["server"]:
        return  # The server was killed before the call.
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor, target in ((log, 1), (log, 2), (os.open(os.devnull, os.O_RDONLY), 0)):
        os.dup2(descriptor, target)
    # Held until this process is gone: a sweep that is killed and started again never has two
    # processes work on one run.
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
