"""Start-up times: to the first update, to the help text, to the error for a wrong flag."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks import commands, rounds, workloads
from benchmarks.measure import NO_PEER, Row

# With an empty cache; three, because they take long and vary little.
FIRST_STARTS = 3
# With absl's exit code for --help, and ours for a wrong flag.
COMMANDS = {"help": (["--help"], 1), "wrong-flag": (["--config.modle.name=x"], 2)}


def startups(name: str, experiment: str, config: ConfigDict, num_rounds: int) -> list[Row]:
    """Returns two rows of the time to the end of step 1: with an empty cache, and with a full one.

    Ours is main.py, which reads the text. PyTorch's builds the model and trains from memory; it
    caches nothing.
    """
    config.train.steps_per_dispatch = 1
    times = {"first": [], "again": []}
    with tempfile.TemporaryDirectory(prefix="bench-start-") as temporary:
        folder = Path(temporary)
        workload = workloads.WORKLOADS[name]._replace(kind="training")
        workloads.prepare(workload, config).save(folder)
        runs = ["first"] * min(FIRST_STARTS, num_rounds) + ["again"] * num_rounds
        for number, which in enumerate(runs):
            # The last of the first starts fills the cache for the others.
            cache = folder / f"cache-{min(number, FIRST_STARTS - 1, num_rounds - 1)}"
            ours = seconds_to_step_1(experiment, folder / f"run-{number}", cache)
            times[which].append((ours, peer_seconds(folder)))
    return [
        {
            "work": f"{name}-{which}",
            "kind": "start",
            "precision": None,
            "unit": "s",
            **rounds.compare(*zip(*pairs, strict=True)),
            "peer_variant": "eager, float32",
        }
        for which, pairs in times.items()
    ]


def seconds_to_step_1(experiment: str, workdir: Path, cache: Path) -> float:
    """Returns the seconds until main.py says that it has made step 1.

    Raises RuntimeError if it ends before.
    """
    changes = ("--config.train.num_steps=2",)
    environment = {"XDG_CACHE_HOME": str(cache)}
    taken, started = 0.0, time.perf_counter()
    with commands.start_training(
        experiment, workdir, *changes, environment=environment, output=subprocess.PIPE
    ) as process:
        for line in process.stdout or ():
            if line.startswith("first update made"):
                taken = time.perf_counter() - started
    if not taken:
        raise RuntimeError(f"{process.args} ended with code {process.returncode} before step 1")
    return taken


def peer_seconds(folder: Path) -> float:
    """Returns the seconds until a PyTorch worker has made its first pass, which is one step."""
    started = time.perf_counter()
    with rounds.start("benchmarks.theirs", str(folder), "eager", "float32", str(os.cpu_count())):
        return time.perf_counter() - started


def command(name: str, experiment: str, num_rounds: int) -> Row:
    """Returns the row of a command that trains nothing, without a peer.

    Raises RuntimeError for an unexpected exit code.
    """
    words, code = COMMANDS[name]
    times = []
    for _ in range(num_rounds):
        started = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "main.py", f"--config=experiments/{experiment}", *words],
            cwd=commands.ROOT,
            capture_output=True,
            text=True,
        )
        times.append(time.perf_counter() - started)
        if result.returncode != code:
            raise RuntimeError(f"{words} ended with code {result.returncode}: {result.stderr}")
    return {
        "work": name,
        "kind": "command",
        "precision": None,
        "unit": "s",
        "ours": statistics.median(times),
        **NO_PEER,
        "runs": num_rounds,
    }
