"""A program for sweeps that trains nothing: it logs a made-up loss, slowly, to its run folder.

The loss of `--level=x` falls towards x. `--fail=N` fails the first N times, `--code` with that exit
code; what it sees of the sweep it prints. After step 2 of level 1.5 it waits while `--holds` has a
file `1.5-2`.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--level", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--holds", type=Path, default=Path("nowhere"))
    parser.add_argument("--fail", type=int, default=0)
    parser.add_argument("--code", type=int, default=1)
    arguments, rest = parser.parse_known_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    names = ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    gpus = [os.environ.get(name) for name in names]
    print(json.dumps({"rest": rest, "cores": len(os.sched_getaffinity(0)), "gpus": gpus}))
    config = {"train": {"num_steps": arguments.steps}}
    (arguments.workdir / "config.json").write_text(json.dumps(config))
    failed = arguments.workdir / "failed"
    times = len(failed.read_text()) if failed.exists() else 0
    if times < arguments.fail:
        failed.write_text("x" * (times + 1))
        print(f"it failed on purpose, time {times + 1}", file=sys.stderr)
        sys.exit(arguments.code)
    for step in range(1, arguments.steps + 1):
        line = {"step": step, "val/loss": arguments.level + 1 / step}
        with open(arguments.workdir / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(arguments.pause)
        while (arguments.holds / f"{arguments.level}-{step}").exists():
            time.sleep(0.02)


if __name__ == "__main__":
    main()
