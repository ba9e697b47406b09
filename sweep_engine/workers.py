"""The runs that are under way, as the sweep sees them: started, signalled, ended."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# What the exit code of a run is if the server that forked it was killed: as if it had been itself.
KILLED = -signal.SIGKILL
# JAX's variable for the part of a GPU's memory that a process takes; and all parts together.
MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"
SHARED_MEMORY = 0.9


class Workers:
    """Up to `count` runs at a time, each with its share of the cores and of the GPUs."""

    def __init__(self, count: int, modules: Sequence[str] = ()) -> None:
        """`modules` are what the runs import: once for all of them."""
        self._modules = modules
        self._cores = share_cores(count)
        self._gpus = share_gpus(count, visible_gpus())
        self._places: dict[str, int] = {}  # Of the runs that are under way.
        self._unread = b""
        self._server = self._start_server()

    @property
    def running(self) -> list[str]:
        """The names of the runs that are under way, oldest first."""
        return list(self._places)

    @property
    def has_room(self) -> bool:
        """Whether another run can be started."""
        return len(self._places) < len(self._cores)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        lock: Path,
    ) -> None:
        """Starts a run; what it prints goes to `log`, and it holds `lock` as long as it lives."""
        place = next(i for i in range(len(self._cores)) if i not in self._places.values())
        self._places[name] = place
        request = {
            "argv": list(argv),
            "environment": {**environment, **self._gpus[place]},
            "cores": self._cores[place],
        }
        self._send({"start": name, **request, "log": str(log), "lock": str(lock)})

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a run; SIGKILL, to everything in its session."""
        self._send({"signal": name, "number": number})

    def wait(self, seconds: float) -> list[tuple[str, int]]:
        """The runs that have ended, and their exit codes; waits so long for the first."""
        ended: list[tuple[str, int]] = []
        until = time.monotonic() + seconds
        while not ended and (left := until - time.monotonic()) > 0:
            if not select.select([self._server.stdout], [], [], left)[0]:
                break
            received = os.read(self._server.stdout.fileno(), 65536)
            if not received:
                return self._restart()
            *lines, self._unread = (self._unread + received).split(b"\n")
            for answer in map(json.loads, lines):
                del self._places[answer["ended"]]
                ended.append((answer["ended"], answer["code"]))
        return ended

    def close(self) -> None:
        """Kills what still runs."""
        self._server.stdin.close()
        self._server.wait()

    def _send(self, request: dict) -> None:
        try:
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()
        except BrokenPipeError:
            pass  # `wait` will see that the server is gone, and its runs with it.

    def _start_server(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py")), *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _restart(self) -> list[tuple[str, int]]:
        """The server is gone: its runs are, too. Starts another one."""
        self._server.wait()
        lost = [(name, KILLED) for name in self._places]
        self._places.clear()
        self._unread = b""
        self._server = self._start_server()
        return lost


def share_cores(count: int) -> list[list[int]]:
    """The cores of each of `count` workers: all are used, and none twice unless there are too few.

    JAX starts a thread a core that its process may run on. Empty lists where a process can't
    choose: macOS.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    return [cores[i::count] or [cores[i % len(cores)]] for i in range(count)]


def visible_gpus() -> list[str]:
    """Returns the names that CUDA_VISIBLE_DEVICES has for the NVIDIA GPUs of this process."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in map(str.strip, chosen.split(",")) if name]
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((match[1] for match in found if match), key=int)


def share_gpus(count: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Returns the variables that give each of `count` workers its GPUs, and its part of one.

    A process of JAX takes three quarters of a GPU's memory at its start, so that a second one on
    the same GPU would find too little.
    """
    if count == 1 or not gpus:
        return [{} for _ in range(count)]
    shares = [gpus[i::count] or [gpus[i % len(gpus)]] for i in range(count)]
    per_gpu = -(-count // len(gpus))
    is_shared = per_gpu > 1 and MEMORY not in os.environ
    fraction = {MEMORY: f"{SHARED_MEMORY / per_gpu:.2f}"} if is_shared else {}
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share), **fraction} for share in shares]
