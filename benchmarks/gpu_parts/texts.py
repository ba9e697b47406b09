"""Tokens per second of generating 1 text and 64 texts side by side, by gpt2.py:baby."""

import statistics

import jax

from benchmarks import ours, workloads
from benchmarks.gpu_parts.finding import Finding
from benchmarks.rounds import seconds_of
from runtime import process
from training.setup import set_up

NAMES = {"1 text": "generation-baby-1", "64 texts": "generation-baby-64"}
TIMES = 3


def run(finding: Finding, rehearse: bool) -> None:
    """Records the speed of both."""
    process.configure_jax()
    lines = []
    for label, name in NAMES.items():
        row = speed(name, rehearse)
        lines.append(f"{label}: {row['tokens_per_second']:,.0f} tokens/s")
        finding.put(**{label: row}, summary=", ".join(lines))


def speed(name: str, rehearse: bool) -> dict[str, float | str]:
    """Returns the median tokens per second of several passes, after one that compiles."""
    workload = workloads.WORKLOADS[name]
    config = workloads.config_of(name, smoke=rehearse, num_tokens=16 if rehearse else 500)
    generate, _ = ours.generation(workloads.prepare(workload, config), set_up(config))
    first, *taken = [seconds_of(lambda: generate(1)) for _ in range(1 + TIMES)]
    return {
        "tokens_per_second": workload.texts * config.sample.num_tokens / statistics.median(taken),
        "first_seconds": first,
        "device": jax.devices()[0].device_kind,
    }
