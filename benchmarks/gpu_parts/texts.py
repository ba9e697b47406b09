"""Tokens a second of writing 1 text and 64 texts side by side, by GPT-2 in nanoGPT's baby size."""

import statistics
import time

import jax
import numpy as np

from benchmarks import ours, works
from benchmarks.gpu_parts.finding import Finding
from inference.generation import generate
from runtime import process
from training.setup import set_up

WORKS = {"1 text": "generation-baby-1", "64 texts": "generation-baby-64"}
TIMES = 3


def run(finding: Finding, rehearse: bool) -> None:
    """Records the speed of both."""
    process.configure_jax()
    lines = []
    for name, work in WORKS.items():
        row = speed(work, rehearse)
        lines.append(f"{name}: {row['tokens_per_second']:,.0f} tokens/s")
        finding.put(**{name: row}, summary=", ".join(lines))


def speed(name: str, rehearse: bool) -> dict[str, float]:
    """Returns the median over a few rounds, after one that compiles."""
    num_texts = works.WORKS[name].texts
    config = works.config_of(name, smoke=rehearse, num_tokens=16 if rehearse else 500)
    parts = set_up(config)
    params = ours.fresh_params(config, parts)
    taken = []
    for _ in range(1 + TIMES):
        started = time.perf_counter()
        for _tokens_BC in generate(
            parts.model,
            params,
            np.asarray(parts.data.val[: works.PROMPT_LENGTH], np.int32),
            num_tokens=config.sample.num_tokens,
            context_length=config.model.context_length,
            sampling=parts.sampling,
            seed=config.seed,
            num_samples=num_texts,
        ):
            pass
        taken.append(time.perf_counter() - started)
    tokens = num_texts * config.sample.num_tokens
    return {
        "tokens_per_second": tokens / statistics.median(taken[1:]),
        "first_seconds": taken[0],
        "device": jax.devices()[0].device_kind,
    }
