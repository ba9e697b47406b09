"""What a person waits for before the first step, and for help or the answer to a slip."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ml_collections import ConfigDict

import run_folder
from benchmarks import rounds, works
from benchmarks.measure import NO_PEER, Row

# With an empty cache: it takes a while and says the same each time.
FIRST_STARTS = 3
# The exit code that absl has for --help, and ours for a wrong flag.
COMMANDS = {"help": (["--help"], 1), "wrong-flag": (["--config.modle.name=x"], 2)}


def starts(name: str, experiment: str, config: ConfigDict, num_rounds: int) -> list[Row]:
    """Rows from the start of a process to its first step done: with an empty cache, and again.

    Ours is the command as it is: it reads the text, and measures the fresh model on the whole
    validation split before that step. PyTorch's makes the model and is fed from memory; it keeps
    nothing that would make it faster the second time.
    """
    config.train.steps_per_dispatch = 1
    times = {"first": [], "again": []}
    with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
        folder = Path(folder)
        works.load(works.WORKS[name]._replace(kind="training"), config).save(folder)
        runs = ["first"] * min(FIRST_STARTS, num_rounds) + ["again"] * num_rounds
        for number, which in enumerate(runs):
            # The last of the first ones fills the cache for the others.
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
    """Until main.py has written the metrics of step 1. Raises RuntimeError if it ends before."""
    command = [
        *(sys.executable, "main.py", f"--config=experiments/{experiment}", f"--workdir={workdir}"),
        # A second step: the last one's metrics wait for an evaluation.
        *("--config.train.num_steps=2", "--config.train.log_every_steps=1"),
        "--config.tracking.wandb_mode=disabled",
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=rounds.ROOT, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            if any(line["step"] == 1 for line in run_folder.read_lines(workdir / "metrics.jsonl")):
                return time.perf_counter() - started
            time.sleep(0.01)
    raise RuntimeError(f"{command} ended with code {process.returncode} before step 1")


def peer_seconds(folder: Path) -> float:
    """Until a worker in PyTorch has done its first pass, which is one step."""
    started = time.perf_counter()
    with rounds.start("benchmarks.theirs", str(folder), "eager", "float32", str(os.cpu_count())):
        return time.perf_counter() - started


def command(name: str, experiment: str, num_rounds: int) -> Row:
    """A row of a command that trains nothing. Raises RuntimeError if it does not end as it should.

    PyTorch has nothing to set beside it.
    """
    words, code = COMMANDS[name]
    times = []
    for _ in range(num_rounds):
        started = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "main.py", f"--config=experiments/{experiment}", *words],
            cwd=rounds.ROOT,
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
