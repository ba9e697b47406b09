"""Two worker processes that take turns, and what their times come to."""

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent


class Work(NamedTuple):
    """What both sides are given to do, again and again. A pass over it is, for each `kind`:

    - training: an update with each of `batches_KBT`, windows of T + 1 tokens;
    - evaluation: the nats of the N batches `windows_NBT`, where `mask_NBT` lets a target count;
    - generation: what follows the texts `prompts_BT`, all of them the same.
    """

    kind: str
    config: ConfigDict  # A whole experiment's.
    vocab_size: int
    heavy: bool  # A pass takes seconds: nothing is to be searched for with it.
    arrays: dict[str, np.ndarray]

    def save(self, folder: Path) -> None:
        """Writes it where a worker can read it."""
        described = {
            "kind": self.kind,
            "config": json.loads(self.config.to_json()),
            "vocab_size": self.vocab_size,
            "heavy": self.heavy,
        }
        (folder / "work.json").write_text(json.dumps(described))
        np.savez(folder / "work.npz", **self.arrays)

    @classmethod
    def load(cls, folder: Path) -> "Work":
        """What `save` wrote."""
        described = json.loads((folder / "work.json").read_text())
        with np.load(folder / "work.npz") as arrays:
            config = ConfigDict(described.pop("config"))
            return cls(config=config, arrays=dict(arrays), **described)


def serve(
    run: Callable[[int], float],
    device_mib: Callable[[], float | None] = lambda: None,
    **facts: str | float | None,
) -> None:
    """The worker's side: `facts` about itself, then `run(passes)`, timed, for each number read.

    The first pass, which compiles, is over when the facts are printed. `run` returns
    when the passes are done, with a number that depends on them and is finite: the last loss for
    example. Each answer is a line of JSON; `device_mib` tells the peak of a device's own memory.
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
    """The most memory this process has had at once, in MiB; not less than its parent had then."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Worker:
    """The parent's side of a process that runs `serve`, started and ready."""

    def __init__(self, process: subprocess.Popen):
        self._process = process
        self.facts = self._answer()
        # The most memory it has had, as of its last answer: the host's, and a device's own.
        self.mib = 0.0
        self.device_mib: float | None = None

    def seconds(self, passes: int) -> float:
        """How long so many passes took.

        Raises RuntimeError if the worker died, or works no more: its result is not finite.
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
    """The line of JSON that `python -m MODULE ARGUMENTS` prints.

    Raises RuntimeError if it prints none; what it printed then says why.
    """
    with start(module, *arguments) as worker:
        return worker.facts


@contextmanager
def start(module: str, *arguments: str, errors: IO[str] | None = None) -> Iterator[Worker]:
    """A Worker that runs `python -m MODULE ARGUMENTS`, and ends with the block.

    Raises RuntimeError if it ends before it is ready; what it printed then says why, to `errors`
    if that is given.
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


def enough_passes(worker: Worker, at_least: float) -> int:
    """How many passes take `at_least` seconds."""
    passes = 1
    while (seconds := worker.seconds(passes)) < at_least:
        # Not more than tenfold: the first ones may be slow still.
        passes = math.ceil(passes * min(10, 1.2 * at_least / seconds))
    return passes


def interleave(
    ours: Worker, peer: Worker, *, rounds: int, at_least: float
) -> tuple[list[float], list[float]]:
    """Seconds of one pass, ours and the peer's, round by round: ours, peer, ours, peer, ...

    Only one works at a time, for `at_least` so many seconds.
    """
    workers = (ours, peer)
    passes = [enough_passes(worker, at_least) for worker in workers]
    times = [
        [worker.seconds(count) / count for worker, count in zip(workers, passes, strict=True)]
        for _ in range(rounds)
    ]
    ours_times, peer_times = zip(*times, strict=True)
    return list(ours_times), list(peer_times)


def compare(ours: list[float], peer: list[float]) -> dict[str, float | int]:
    """Medians of both sides, and of the ratio within each round; above 1 means ours is faster."""
    ratios = [theirs / our for our, theirs in zip(ours, peer, strict=True)]
    return {
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "runs": len(ratios),
    }
