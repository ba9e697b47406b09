"""Processes of a sweep's runs: starts and signals them, and reports how they ended."""

import contextlib
import io
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

# Time between looks at the runs.
POLL_SECONDS = 0.25
# Exit code of a run whose fork server was killed, and the run with it.
KILLED = -signal.SIGKILL
# JAX's variable for the fraction of a GPU's memory that a process takes, and the sum of those.
MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"
SHARED_MEMORY = 0.9


class Workers:
    """Pool of `count` workers, each with its share of the cores and of the GPUs."""

    def __init__(self, count: int, modules: Sequence[str] = ()) -> None:
        """Starts a fork server that imports `modules` once for all runs."""
        self._modules = modules
        self._cores = share_cores(count)
        self._gpus = share_gpus(count, visible_gpus())
        self._workers: dict[str, int] = {}  # Index of the worker, by the name of its run.
        self._start_server()

    @property
    def running(self) -> list[str]:
        """Returns the names of the running runs, oldest first."""
        return list(self._workers)

    @property
    def has_room(self) -> bool:
        """Returns True if a worker is free."""
        return len(self._workers) < len(self._cores)

    def start(
        self, name: str, argv: list[str], environment: Mapping[str, str], log: Path, lock: Path
    ) -> None:
        """Starts a run, which prints to `log` and holds `lock` while it lives."""
        free = next(i for i in range(len(self._cores)) if i not in self._workers.values())
        self._workers[name] = free
        request = {"start": name, "argv": argv, "environment": {**environment, **self._gpus[free]}}
        self._send({**request, "cores": self._cores[free], "log": str(log), "lock": str(lock)})

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a run; SIGKILL goes to its whole process group."""
        self._send({"signal": name, "number": number})

    def wait(self, seconds: float) -> list[tuple[str, int]]:
        """Returns runs that ended and their exit codes, waiting up to `seconds` for the first."""
        ended: list[tuple[str, int]] = []
        while select.select([self._answers], [], [], 0 if ended else seconds)[0]:
            line = self._answers.readline()
            if not line:  # The server was killed, and its runs with it.
                self._server.wait()
                ended += [(name, KILLED) for name in self._workers]
                self._workers.clear()
                self._start_server()
                break
            answer = json.loads(line)
            del self._workers[answer["ended"]]
            ended.append((answer["ended"], answer["code"]))
        return ended

    def stop(self, seconds: float) -> None:
        """Asks all runs to save and stop, and waits up to `seconds` for them."""
        until = time.monotonic() + seconds
        for name in self.running:
            self.signal(name, signal.SIGTERM)
        while self.running and time.monotonic() < until:
            self.wait(POLL_SECONDS)

    def close(self) -> None:
        """Kills all runs."""
        self._requests.close()
        self._server.wait()

    def _send(self, request: dict) -> None:
        # `wait` notices a server that is gone, and its runs with it.
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()

    def _start_server(self) -> None:
        script = Path(__file__).with_name("fork_server.py")
        self._server = subprocess.Popen(
            [sys.executable, script, *self._modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._server.stdin and self._server.stdout
        self._requests = self._server.stdin
        # Unbuffered: `select` must see every line that was not read yet.
        self._answers = io.FileIO(self._server.stdout.fileno(), closefd=False)


def share_cores(count: int) -> list[list[int]]:
    """Returns the cores of each of `count` workers: disjoint unless there are too few.

    JAX starts a thread for each core that its process may run on. Empty lists on macOS, where a
    process can't choose its cores.
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
    """Returns the environment variables that give each of `count` workers its GPUs.

    A JAX process takes three quarters of a GPU's memory at its start, so processes that share a GPU
    are given smaller fractions.
    """
    if count == 1 or not gpus:
        return [{} for _ in range(count)]
    shares = [gpus[i::count] or [gpus[i % len(gpus)]] for i in range(count)]
    per_gpu = -(-count // len(gpus))
    is_shared = per_gpu > 1 and MEMORY not in os.environ
    fraction = {MEMORY: f"{SHARED_MEMORY / per_gpu:.2f}"} if is_shared else {}
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share), **fraction} for share in shares]
