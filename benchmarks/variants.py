"""Which way of running a work suits PyTorch best: `python -m benchmarks.variants FOLDER`.

Prints it as a line of JSON, with the times of the others or why they were not tried. A process of
its own: what the others needed does not count as the memory of the one that is taken.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.rounds import Work
from benchmarks.theirs import Run, Variant, build

# How much longer than float32 products those of bfloat16 may take before no variant is tried.
SLOW_BFLOAT16 = 1.5


def seconds_of(call: Callable[[], object], times: int) -> float:
    """The fastest of so many calls, after one that is not counted."""
    call()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def choose_threads(run: Run, heavy: bool) -> tuple[int, float]:
    """The number of threads that makes a pass fastest, for a small model one; and its seconds."""
    all_threads = torch.get_num_threads()
    if heavy:  # Its products fill every core.
        return all_threads, seconds_of(lambda: run(1), times=1)

    def with_threads(threads: int) -> float:
        torch.set_num_threads(threads)
        return seconds_of(lambda: run(1), times=5)

    powers = [2**n for n in range(all_threads.bit_length())]
    taken = {threads: with_threads(threads) for threads in {*powers, all_threads}}
    torch.set_num_threads(all_threads)
    best = min(taken, key=taken.get)
    return best, taken[best]


def bfloat16_slowness() -> float:
    """How many times as long a product of bfloat16 matrices takes as one in float32."""
    left, right = torch.rand(2, 512, 512)
    halves = left.bfloat16(), right.bfloat16()
    return seconds_of(lambda: halves[0] @ halves[1], 3) / seconds_of(lambda: left @ right, 3)


def candidates(work: Work) -> tuple[list[Variant], dict[str, str]]:
    """The variants to try, and why others are not tried."""
    # The generate of transformers is a loop in Python; ours writes in float32, too.
    if work.kind == "generation":
        return [Variant("eager", "float32")], {}
    modes, precisions, left_out = ["eager"], ["float32"], {}
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        modes.append("torch.compile")
    else:
        left_out["torch.compile"] = f"no C++ compiler ({compiler}): not tried"
    if work.kind == "training" and work.config.train.precision == "bfloat16":
        if (slowness := bfloat16_slowness()) <= SLOW_BFLOAT16:
            precisions.append("bfloat16")
        else:
            left_out["bfloat16"] = f"products take {slowness:.0f} times as long: not tried"
    return [Variant(mode, precision) for precision in precisions for mode in modes], left_out


def main(folder: str) -> None:
    work = Work.load(Path(folder))
    share = 1.0
    if work.kind == "generation":  # A tenth of a text tells.
        num_tokens = work.config.sample.num_tokens
        work.config.sample.num_tokens = max(num_tokens // 10, 1)
        share = work.config.sample.num_tokens / num_tokens
    variants, left_out = candidates(work)
    tried = {variant: choose_threads(build(work, variant), work.heavy) for variant in variants}
    best = min(tried, key=lambda variant: tried[variant][1])
    threads, _ = tried[best]
    found = {
        **best._asdict(),
        "threads": threads,
        # Seconds of a whole pass.
        "tried": {variant.name: seconds / share for variant, (_, seconds) in tried.items()},
        "left_out": left_out,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
