"""Two worker processes that take turns, and statistics of their times."""

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from benchmarks.commands import ROOT

# Makes so many passes; the result depends on them and is finite, for example the last loss.
Run = Callable[[int], float]


class Job(NamedTuple):
    """Task that a worker repeats. One pass is, by `kind`:

    - training: an update with each of `batches_KBT`, windows of T + 1 tokens;
    - evaluation: the nats of the N batches `windows_NBT`, at the targets in `mask_NBT`;
    - generation: continuations of the texts `prompts_BT`, all of them equal;
    - input: drawing the batches of one dispatch.
    """

    kind: str
    config: ConfigDict  # The whole config of an experiment.
    vocab_size: int
    heavy: bool  # A pass takes seconds, so variants are timed only once.
    arrays: dict[str, np.ndarray]

    def save(self, folder: Path) -> None:
        """Writes the job for a worker to load."""
        described = {**self._asdict(), "config": json.loads(self.config.to_json())}
        np.savez(folder / "job.npz", **described.pop("arrays"))
        (folder / "job.json").write_text(json.dumps(described))

    @classmethod
    def load(cls, folder: Path) -> "Job":
        """Returns the job that `save` wrote."""
        described = json.loads((folder / "job.json").read_text())
        with np.load(folder / "job.npz") as arrays:
            config = ConfigDict(described.pop("config"))
            return cls(config=config, arrays=dict(arrays), **described)


def seconds_of(call: Callable[[], object]) -> float:
    """Calls and returns the seconds that it took."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def serve(
    run: Run,
    device_mib: Callable[[], float | None] = lambda: None,
    **facts: str | float | None,
) -> None:
    """Runs the worker's side of the protocol, with a line of JSON for each answer.

    Makes a first pass, which compiles, and prints `facts`. Then times `run(passes)` for each number
    read. `device_mib` returns the peak memory of a device in MiB.
    """
    run(1)
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        result = run(int(line))
        seconds = time.perf_counter() - started
        answer = {"seconds": seconds, "result": result, "mib": peak_mib()}
        print(json.dumps({**answer, "device_mib": device_mib()}), flush=True)


def peak_mib() -> float:
    """Returns the peak memory of this process in MiB, at least its parent's when it forked."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Worker:
    """Parent's side of a process that runs `serve`; it has made its first pass."""

    def __init__(self, process: subprocess.Popen):
        self._process = process
        self.facts = self._answer()
        # Peak memory of the host and of the device, as of the last answer.
        self.mib = 0.0
        self.device_mib: float | None = None

    def seconds(self, passes: int) -> float:
        """Makes so many passes and returns their seconds.

        Raises RuntimeError if the worker died or its result is not finite.
        """
        self._process.stdin.write(f"{passes}\n")
        self._process.stdin.flush()
        answer = self._answer()
        if not math.isfinite(answer["result"]):
            raise RuntimeError(f"{self._process.args}: the result is {answer['result']}")
        self.mib = answer["mib"]
        self.device_mib = answer["device_mib"]
        return answer["seconds"]

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with code {self._process.wait()}")
        return json.loads(line)


def ask(module: str, *arguments: str) -> dict:
    """Returns the line of JSON that `python -m MODULE ARGUMENTS` prints.

    Raises RuntimeError if it prints none; its standard error says why.
    """
    with start(module, *arguments) as worker:
        return worker.facts


@contextmanager
def start(module: str, *arguments: str, errors: IO[str] | None = None) -> Iterator[Worker]:
    """Starts `python -m MODULE ARGUMENTS` as a Worker, and kills it at the end of the block.

    Raises RuntimeError if it ends before it is ready; its standard error, which goes to `errors` if
    given, says why.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    with process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def count_passes(worker: Worker, min_seconds: float) -> int:
    """Returns a number of passes that takes at least `min_seconds`."""
    passes = 1
    while (seconds := worker.seconds(passes)) < min_seconds:
        # At most tenfold: the first passes may still be slow.
        passes = math.ceil(passes * min(10, 1.2 * min_seconds / seconds))
    return passes


def interleave(
    ours: Worker, peer: Worker, *, rounds: int, min_seconds: float
) -> tuple[list[float], list[float]]:
    """Returns the seconds of a pass in each round, ours and the peer's.

    The sides take turns (ours, peer, ours, peer, ...) of at least `min_seconds`.
    """
    workers = (ours, peer)
    passes = [count_passes(worker, min_seconds) for worker in workers]
    times = [
        [worker.seconds(count) / count for worker, count in zip(workers, passes, strict=True)]
        for _ in range(rounds)
    ]
    ours_times, peer_times = zip(*times, strict=True)
    return list(ours_times), list(peer_times)


def compare(
    ours: Sequence[float], peer: Sequence[float], scale: float = 1.0
) -> dict[str, float | int]:
    """Returns medians of both sides' times, multiplied by `scale`, and of the ratio.

    The ratio is the peer's time over ours within each round, above 1 where ours is faster.
    """
    ratios = [theirs / our for our, theirs in zip(ours, peer, strict=True)]
    return {
        "ours": scale * statistics.median(ours),
        "peer": scale * statistics.median(peer),
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "runs": len(ratios),
    }
