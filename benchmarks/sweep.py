"""A sweep with two workers against the same ten commands, one after another: `make bench-sweep`.

Ten runs of sweeps/compare_stages.yaml in `:smoke` sizes. Both sides are measured in turns, with a
compilation cache of their own: empty in the first round, filled in the others. Writes
benchmarks/sweep.json: seconds of each round, and the ratio of the medians.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
RUNS, WORKERS, ROUNDS = 10, 2, 4
SWEEP = ["sweeps/run.py", "sweeps/compare_stages.yaml", f"--count={RUNS}", "--preset=smoke"]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as folder:
        ours, theirs = [], []
        for number in range(ROUNDS):
            workdir = Path(folder) / str(number)
            seconds, commands = sweep(workdir / "sweep", Path(folder) / "our-cache")
            ours.append(seconds)
            theirs.append(in_turn(commands, workdir, Path(folder) / "their-cache"))
            print(f"round {number}: sweep {ours[-1]:.1f} s, in turn {theirs[-1]:.1f} s", flush=True)
    result = {
        "work": f"{RUNS} runs, {WORKERS} workers",
        "num_cpus": os.cpu_count(),
        "unit": "s",
        "first": {"ours": ours[0], "peer": theirs[0], "ratio": theirs[0] / ours[0]},
        "again": {
            "ours": ours[1:],
            "peer": theirs[1:],
            "ratio": statistics.median(theirs[1:]) / statistics.median(ours[1:]),
        },
    }
    (HERE / "sweep.json").write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{result['first']['ratio']:.2f} times the throughput with an empty cache, "
        f"{result['again']['ratio']:.2f} with a filled one"
    )


def sweep(workdir: Path, cache: Path) -> tuple[float, list[list[str]]]:
    """Seconds of the sweep, and the commands it says its runs can be repeated by."""
    started = time.perf_counter()
    result = run([*SWEEP, f"--workers={WORKERS}", f"--workdir={workdir}"], cache)
    seconds = time.perf_counter() - started
    lines = [line for line in result.stdout.splitlines() if line.startswith("start ")]
    commands = [shlex.split(line.partition(": ")[2])[1:] for line in lines]
    assert len(commands) == RUNS, result.stdout
    return seconds, commands


def in_turn(commands: list[list[str]], workdir: Path, cache: Path) -> float:
    """Seconds of the same runs as ten commands."""
    started = time.perf_counter()
    for number, words in enumerate(commands):
        run([*words, f"--workdir={workdir / str(number)}"], cache)
    return time.perf_counter() - started


def run(words: list[str], cache: Path) -> subprocess.CompletedProcess:
    """`python WORDS`, which has to succeed."""
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
    )


if __name__ == "__main__":
    main()
