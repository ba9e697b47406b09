"""Two worker processes that take turns, and what their times come to."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent


class Work(NamedTuple):
    """What both sides are given to do: a training step, again and again."""

    config: ConfigDict  # A whole experiment's.
    vocab_size: int
    batches_KBT: np.ndarray  # Windows of T + 1 tokens, one batch an update; int32.

    def save(self, folder: Path) -> None:
        """Writes it where a worker can read it."""
        described = {"config": json.loads(self.config.to_json()), "vocab_size": self.vocab_size}
        (folder / "work.json").write_text(json.dumps(described))
        np.save(folder / "batches.npy", self.batches_KBT)

    @classmethod
    def load(cls, folder: Path) -> "Work":
        """What `save` wrote."""
        described = json.loads((folder / "work.json").read_text())
        batches_KBT = np.load(folder / "batches.npy")
        return cls(ConfigDict(described["config"]), described["vocab_size"], batches_KBT)


def serve(run: Callable[[int], float], **facts: str) -> None:
    """The worker's side: `facts` about itself, then `run(passes)`, timed, for each number read.

    A pass is one update with each of the K batches. `run` returns when they are done, with the
    last one's loss. Each answer is a line of JSON.
    """
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        loss = run(int(line))
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "loss": loss}), flush=True)


class Worker:
    """The parent's side of a process that runs `serve`, started and ready."""

    def __init__(self, process: subprocess.Popen):
        self._process = process
        self.facts = self._answer()

    def seconds(self, passes: int) -> float:
        """How long so many passes took.

        Raises RuntimeError if the worker died, or trains no more: its loss is not finite.
        """
        self._process.stdin.write(f"{passes}\n")
        self._process.stdin.flush()
        answer = self._answer()
        if not math.isfinite(answer["loss"]):
            raise RuntimeError(f"{self._process.args}: the loss is {answer['loss']}")
        return answer["seconds"]

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with code {self._process.wait()}")
        return json.loads(line)


@contextmanager
def start(module: str, *arguments: str) -> Iterator[Worker]:
    """A Worker that runs `python -m MODULE ARGUMENTS`, and ends with the block.

    Raises RuntimeError if it ends before it is ready; what it printed then says why.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def enough_passes(worker: Worker, at_least: float) -> int:
    """How many passes take `at_least` seconds; warms the worker up on the way."""
    worker.seconds(1)  # Compiles.
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
