"""PyTorch's fastest variant for a job: `python -m benchmarks.variants FOLDER`.

Prints it as a line of JSON, with the times of all variants, or the reason why one was not tried. It
is a process of its own so that the worker's peak memory excludes the other variants.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages("torch", ".venv-peers", "peers")


import json
import os
import shutil
import sys
from pathlib import Path

import torch

from benchmarks.rounds import Job, Run, seconds_of
from benchmarks.theirs import Variant, build

# bfloat16 is not tried where its products take longer than float32's by more than this factor.
SLOW_BFLOAT16 = 1.5


def fastest(run: Run, times: int) -> float:
    """Returns the seconds of the fastest of several passes, after one to warm up."""
    run(1)
    return min(seconds_of(lambda: run(1)) for _ in range(times))


def choose_threads(run: Run, heavy: bool) -> tuple[int, float]:
    """Returns the number of threads that makes a pass fastest, and the seconds of that pass."""
    all_threads = torch.get_num_threads()
    if heavy:  # Its products keep every core busy.
        return all_threads, fastest(run, times=1)

    def with_threads(threads: int) -> float:
        torch.set_num_threads(threads)
        return fastest(run, times=5)

    powers = [2**n for n in range(all_threads.bit_length())]
    taken = {threads: with_threads(threads) for threads in {*powers, all_threads}}
    torch.set_num_threads(all_threads)
    best = min(taken, key=taken.get)
    return best, taken[best]


def bfloat16_slowness() -> float:
    """Returns the time of a matrix product in bfloat16 over its time in float32."""
    factors = torch.rand(2, 512, 512)
    in_bfloat16, in_float32 = (
        fastest(lambda _, pair=pair: torch.mm(*pair), times=3)
        for pair in (factors.bfloat16(), factors)
    )
    return in_bfloat16 / in_float32


def candidates(job: Job) -> tuple[list[Variant], dict[str, str]]:
    """Returns the variants to try, and the reasons why others are left out."""
    # transformers generates in a Python loop; ours generates in float32, too.
    if job.kind == "generation":
        return [Variant("eager", "float32")], {}
    modes, precisions, left_out = ["eager"], ["float32"], {}
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        modes.append("torch.compile")
    else:
        left_out["torch.compile"] = f"no C++ compiler ({compiler}): not tried"
    if job.kind == "training" and job.config.train.precision == "bfloat16":
        if (slowness := bfloat16_slowness()) <= SLOW_BFLOAT16:
            precisions.append("bfloat16")
        else:
            left_out["bfloat16"] = f"products take {slowness:.0f} times as long: not tried"
    return [Variant(mode, precision) for precision in precisions for mode in modes], left_out


def main(folder: str) -> None:
    """Prints the fastest variant for the job in `folder`."""
    job = Job.load(Path(folder))
    share = 1.0
    if job.kind == "generation":  # A tenth of a text is enough to compare.
        num_tokens = job.config.sample.num_tokens
        job.config.sample.num_tokens = max(num_tokens // 10, 1)
        share = job.config.sample.num_tokens / num_tokens
    variants, left_out = candidates(job)
    tried = {variant: choose_threads(build(job, variant), job.heavy) for variant in variants}
    best = min(tried, key=lambda variant: tried[variant][1])
    threads, _ = tried[best]
    found = {
        **best._asdict(),
        "threads": threads,
        "tried": {variant.name: seconds / share for variant, (_, seconds) in tried.items()},
        "left_out": left_out,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
