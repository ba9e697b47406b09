"""Growth of time and memory with the size of the problem: `make bench-growth` writes growth.json.

Along each axis one number doubles and all else stays: the context at a fixed number of tokens in an
update, the width, the vocabulary, the text that is read. Both sides train GPT-2 in float32, PyTorch
eagerly, and take turns. A slope is the exponent of a power law through the last three sizes: 1 is
linear. Rows are written as they are measured; the figure is beside the file.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages("torch", ".venv-peers", "peers")


import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import altair
import numpy as np
from absl import flags
from ml_collections import ConfigDict

import run_folder
from benchmarks import checks, measure, results, rounds, workloads
from input_pipeline import sources
from runtime import errors

MIB = 2**20
TOKENS = 2048  # Of an update, along the axis of contexts.
SIZES: dict[str, Sequence[int]] = {
    "context": (64, 128, 256, 512, 1024, 2048),
    "width": (64, 128, 256, 512),
    "vocabulary": (65, 256, 1024, 4096, 50257),
    "text": (1, 4, 16, 64, 256, 1024),
}
LABELS = {"context": "context, tokens", "vocabulary": "vocabulary, tokens", "text": "text, MiB"}
TOKENIZERS = {65: "char", 256: "byte", 50257: "gpt2"}
# A list of Python's integers takes 8 bytes a character and more: 1 GiB of text would not fit.
MOST_MIB_FOR_PEER = 64
TURNS, SMOKE_TURNS = measure.Turns(5, 0.5), measure.Turns(1, 0.01)
SIDES = ("ours", "peer")

AXES = flags.DEFINE_list("axes", list(SIZES), "What grows.")
SMOKE = flags.DEFINE_bool("smoke", False, "Measure the two smallest sizes briefly, to test this.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/growth.json", "File to write.")


def main() -> None:
    """Measures each size of each axis, writes the file, draws it, and prints the slopes."""
    checks.check_choices("axes", AXES.value, SIZES)
    checks.check_output(OUTPUT.value)
    rows: list[measure.Row] = []
    for axis in AXES.value:
        for size in SIZES[axis][:2] if SMOKE.value else SIZES[axis]:
            row = read_text(size) if axis == "text" else train(config_of(axis, size))
            rows.append({"axis": axis, "size": size, **row})
            content = {"machine": results.host(), "rows": rows, "slopes": [*slopes(rows)]}
            run_folder.write_json(Path(OUTPUT.value), content)
            print(shown(rows[-1]), flush=True)
    for slope in slopes(rows):
        print(shown(slope))
    draw(rows, Path(OUTPUT.value).with_suffix(".svg"))


def config_of(axis: str, size: int) -> ConfigDict:
    """Returns the config of a size: GPT-2 with two blocks of 128 and 12 x 64 tokens otherwise."""
    config = workloads.config_named("gpt2.py")
    config.train.precision, config.optimizer.name = "float32", "adamw"
    config.model.num_layers, config.model.embed_dim = 2, 128
    config.train.steps_per_dispatch = 1
    config.train.batch_size, config.model.context_length = 12, 64
    if axis == "context":
        config.train.batch_size, config.model.context_length = TOKENS // size, size
    elif axis == "width":
        config.model.embed_dim, config.model.num_heads = size, size // 32
    else:
        config.data.tokenizer = TOKENIZERS.get(size, f"bpe:{size}")
    return config


def train(config: ConfigDict) -> measure.Row:
    """Returns milliseconds of a training step and peak memory, ours and PyTorch's."""
    job = workloads.prepare(workloads.Workload("training", "gpt2", {}), config)
    turns = SMOKE_TURNS if SMOKE.value else TURNS
    with measure.two_sides(job, "eager", "float32", os.cpu_count() or 1) as (ours, peer):
        times = rounds.interleave(ours, peer, **turns._asdict())
        return {
            "unit": "ms/step",
            **rounds.compare(*times, scale=1e3),
            "mib": {"ours": ours.mib, "peer": peer.mib},
        }


def read_text(size: int) -> measure.Row:
    """Returns the seconds from a file of text to token ids, and peak memory."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder, "text.txt")
        splits = sources.find(workloads.config_named("bigram.py").data).read()
        text = "".join(piece for split in splits for piece in split()).encode()[:MIB]
        with open(path, "wb") as file:
            for _ in range(size):
                file.write(text)
        sides = SIDES if size <= MOST_MIB_FOR_PEER else SIDES[:1]
        found = {side: rounds.ask("benchmarks.read_text", side, str(path)) for side in sides}
    ours, peer = (found.get(side, {}).get("seconds") for side in SIDES)
    return {
        "unit": "s",
        "ours": ours,
        "peer": peer,
        "ratio": peer and peer / ours,
        "mib": {side: one["mib"] for side, one in found.items()},
    }


def slopes(rows: Sequence[measure.Row]) -> Iterator[measure.Row]:
    """Yields the exponents of time and memory over the last three sizes of each axis and side."""
    for axis, group in groupby(rows, itemgetter("axis")):
        last = list(group)[-3:]
        row: measure.Row = {"axis": axis}
        for side in SIDES:
            times = {row["size"]: row[side] for row in last}
            memory = {row["size"]: row["mib"].get(side) for row in last}
            row[side] = {"time": exponent(times), "memory": exponent(memory)}
        yield row


def exponent(values: dict[int, float | None]) -> float | None:
    """Returns the slope of the line through the logarithms; None for fewer than two values."""
    points = [(size, value) for size, value in values.items() if value]
    if len(points) < 2:
        return None
    sizes, found = np.log(np.array(points)).T
    return float(np.polyfit(sizes, found, 1)[0])


def shown(row: measure.Row) -> str:
    """Returns a row as a line for the terminal."""
    return "  ".join(f"{name} {value}" for name, value in _flat(row))


def _flat(row: measure.Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        elif value is not None:
            yield prefix + name, f"{value:.3g}" if isinstance(value, float) else str(value)


def draw(rows: Sequence[measure.Row], path: Path) -> None:
    """Draws time and memory of both sides over each axis, on logarithmic axes."""
    points = [
        {"axis": row["axis"], "size": row["size"], "side": name, "what": what, "value": value}
        for row in rows
        for side, name in zip(SIDES, ("ours", "PyTorch, or plain Python for text"), strict=True)
        for what, value in ((row["unit"], row[side]), ("peak MiB", row["mib"].get(side)))
        if value is not None
    ]

    def panel(axis: str, what: str) -> altair.Chart:
        chosen = [one for one in points if (one["axis"], one["what"]) == (axis, what)]
        scale = altair.Scale(type="log", nice=False, padding=12)
        # Fonts elsewhere may be wider than the one that it was measured with.
        legend = altair.Legend(orient="top", labelLimit=400, columnPadding=50)
        sizes = altair.Axis(values=list(SIZES[axis]), labelExpr="format(datum.value, 'd')")
        chart = altair.Chart(altair.Data(values=chosen)).mark_line(point=True)
        return chart.encode(
            altair.X("size:Q", title=LABELS.get(axis, axis), scale=scale, axis=sizes),
            altair.Y("value:Q", title=what, scale=scale, axis=altair.Axis(tickCount=4)),
            altair.Color("side:N", title=None, legend=legend),
        ).properties(width=240, height=180)

    units = {row["axis"]: row["unit"] for row in rows}
    columns = [panel(axis, unit) & panel(axis, "peak MiB") for axis, unit in units.items()]
    altair.hconcat(*columns).save(path)


if __name__ == "__main__":
    process.set_up_malloc()  # The workers of both sides inherit it.
    errors.run_command(main)
