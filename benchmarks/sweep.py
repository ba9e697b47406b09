"""Throughput of a sweep against its runs one after another: `make bench-sweep`.

Ten runs of sweeps/compare_stages.yaml in `:smoke` sizes, by two workers or as ten commands. The
sides take turns, each with its own compilation cache: empty in the first round, filled in the
others. Writes benchmarks/sweep.json: seconds of each round, and the ratio of the medians.
"""

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run_folder
from benchmarks.commands import ROOT

RUNS, WORKERS, ROUNDS = 10, 2, 4
SWEEP = ["sweeps/run.py", "sweeps/compare_stages.yaml", f"--count={RUNS}", "--preset=smoke"]


def main() -> None:
    """Measures both sides, writes the file and prints the ratios."""
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as folder:
        ours, theirs = [], []
        for number in range(ROUNDS):
            workdir = Path(folder) / str(number)
            seconds, commands = sweep(workdir / "sweep", Path(folder) / "our-cache")
            ours.append(seconds)
            theirs.append(in_sequence(commands, workdir, Path(folder) / "their-cache"))
            print(
                f"round {number}: sweep {ours[-1]:.1f} s, in sequence {theirs[-1]:.1f} s",
                flush=True,
            )
    first_ratio = theirs[0] / ours[0]
    ratio = statistics.median(theirs[1:]) / statistics.median(ours[1:])
    result = {
        "work": f"{RUNS} runs, {WORKERS} workers",
        "num_cpus": os.cpu_count(),
        "unit": "s",
        "first": {"ours": ours[0], "peer": theirs[0], "ratio": first_ratio},
        "again": {"ours": ours[1:], "peer": theirs[1:], "ratio": ratio},
    }
    run_folder.write_json(ROOT / "benchmarks/sweep.json", result)
    print(
        f"{first_ratio:.2f} times the throughput with an empty cache, {ratio:.2f} with a filled one"
    )


def sweep(workdir: Path, cache: Path) -> tuple[float, list[list[str]]]:
    """Returns the seconds of the sweep, and the commands that it prints for its runs."""
    started = time.perf_counter()
    result = run([*SWEEP, f"--workers={WORKERS}", f"--workdir={workdir}"], cache)
    seconds = time.perf_counter() - started
    lines = [line for line in result.stdout.splitlines() if line.startswith("start ")]
    commands = [shlex.split(line.partition(": ")[2])[1:] for line in lines]
    assert len(commands) == RUNS, result.stdout
    return seconds, commands


def in_sequence(commands: list[list[str]], workdir: Path, cache: Path) -> float:
    """Runs the commands one after another and returns their seconds."""
    started = time.perf_counter()
    for number, words in enumerate(commands):
        run([*words, f"--workdir={workdir / str(number)}"], cache)
    return time.perf_counter() - started


def run(words: list[str], cache: Path) -> subprocess.CompletedProcess:
    """Runs `python WORDS`. Raises subprocess.CalledProcessError if it fails."""
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


if __name__ == "__main__":
    main()
