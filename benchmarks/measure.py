"""From a work to its rows: what ours and PyTorch take for it, in turn."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from benchmarks import rounds, works

Row = dict[str, str | float | dict | None]

NO_PEER = dict.fromkeys(["peer", "peer_variant", "ratio", "lowest_ratio", "highest_ratio"])


class Turns(NamedTuple):
    """How often each side works, and how long at a time."""

    rounds: int
    at_least: float  # Seconds.


def side_by_side(name: str, config: ConfigDict, turns: Turns) -> Row:
    """A row of ours and PyTorch's best variant, with the same work in a process each."""
    work = works.WORKS[name]
    # What a pass has a number of is told in milliseconds for one of them. A token is one of each
    # of the texts that are written side by side.
    unit, scale = {
        "training": ("ms/step", 1e3 / config.train.steps_per_dispatch),
        "evaluation": ("s", 1.0),
        "generation": ("ms/token", 1e3 / config.sample.num_tokens),
    }[work.kind]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        works.load(work, config).save(Path(folder))
        found = rounds.ask("benchmarks.variants", folder)
        mode, precision, threads = found["mode"], found["precision"], found["threads"]
        with (
            rounds.start("benchmarks.ours", folder) as ours,
            rounds.start("benchmarks.theirs", folder, mode, precision, str(threads)) as peer,
        ):
            times = rounds.interleave(ours, peer, **turns._asdict())
    return {
        "work": name,
        "kind": work.kind,
        **{name: ours.facts[name] for name in ("precision", "flops") if name in ours.facts},
        "unit": unit,
        **rounds.compare(*[[scale * one for one in side] for side in times]),
        "peer_variant": f"{mode}, {precision}, {threads} thread{'s' if threads > 1 else ''}",
        "peer_precision": precision,
        "variants": {
            **{variant: scale * seconds for variant, seconds in found["tried"].items()},
            **found["left_out"],
        },
        "peak_mib": {"ours": ours.mib, "peer": peer.mib},
    }


def input_pipeline(name: str, config: ConfigDict, turns: Turns) -> Row:
    """A row of drawing batches alone, and its share of our training step, which takes turns."""
    with ExitStack() as stack:
        workers = []
        for kind in ("input", "training"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            works.load(works.WORKS[name]._replace(kind=kind), config).save(Path(folder))
            workers.append(stack.enter_context(rounds.start("benchmarks.ours", folder)))
        times = rounds.interleave(*workers, **turns._asdict())
        precision = workers[0].facts["precision"]
    steps = config.train.steps_per_dispatch
    figures = rounds.compare(*[[1e3 * one / steps for one in side] for side in times])
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
