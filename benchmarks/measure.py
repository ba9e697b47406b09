"""Rows of a workload: our times and PyTorch's, measured in turns."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from benchmarks import rounds, workloads

Row = dict[str, str | float | dict | None]

NO_PEER = dict.fromkeys(["peer", "peer_variant", "ratio", "lowest_ratio", "highest_ratio"])


class Turns(NamedTuple):
    """Number of turns of each side, and the minimum length of one."""

    rounds: int
    min_seconds: float


def side_by_side(name: str, config: ConfigDict, turns: Turns) -> Row:
    """Returns the row of a workload for ours and PyTorch's fastest variant, a process each."""
    workload = workloads.WORKLOADS[name]
    # Texts generated side by side share the time of a token.
    unit, scale = {
        "training": ("ms/step", 1e3 / config.train.steps_per_dispatch),
        "evaluation": ("s", 1.0),
        "generation": ("ms/token", 1e3 / config.sample.num_tokens),
    }[workload.kind]
    job = workloads.prepare(workload, config)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        job.save(Path(folder))
        found = rounds.ask("benchmarks.variants", folder)
    mode, precision, threads = found["mode"], found["precision"], found["threads"]
    with two_sides(job, mode, precision, threads) as (ours, peer):
        times = rounds.interleave(ours, peer, **turns._asdict())
    return {
        "work": name,
        "kind": workload.kind,
        **{name: ours.facts[name] for name in ("precision", "flops") if name in ours.facts},
        "unit": unit,
        **rounds.compare(*times, scale=scale),
        "peer_variant": f"{mode}, {precision}, {threads} thread{'s' if threads > 1 else ''}",
        "peer_precision": precision,
        "variants": {
            **{variant: scale * seconds for variant, seconds in found["tried"].items()},
            **found["left_out"],
        },
        "peak_mib": {"ours": ours.mib, "peer": peer.mib},
    }


@contextmanager
def two_sides(
    job: rounds.Job, mode: str, precision: str, threads: int
) -> Iterator[tuple[rounds.Worker, rounds.Worker]]:
    """Starts both sides on a job, ours and PyTorch's in one variant."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        job.save(Path(folder))
        with (
            rounds.start("benchmarks.ours", folder) as ours,
            rounds.start("benchmarks.theirs", folder, mode, precision, str(threads)) as peer,
        ):
            yield ours, peer


def input_pipeline(name: str, config: ConfigDict, turns: Turns) -> Row:
    """Returns the row of drawing batches alone, with its share of our training step's time."""
    with ExitStack() as stack:
        workers = []
        for kind in ("input", "training"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            workload = workloads.WORKLOADS[name]._replace(kind=kind)
            workloads.prepare(workload, config).save(Path(folder))
            workers.append(stack.enter_context(rounds.start("benchmarks.ours", folder)))
        times = rounds.interleave(*workers, **turns._asdict())
        precision = workers[0].facts["precision"]
    figures = rounds.compare(*times, scale=1e3 / config.train.steps_per_dispatch)
    return {
        "work": name,
        "kind": "input",
        "precision": precision,
        "unit": "ms/step",
        "ours": figures["ours"],
        **NO_PEER,
        "training_step": figures["peer"],
        "share": 1 / figures["ratio"],
        "runs": figures["runs"],
    }
