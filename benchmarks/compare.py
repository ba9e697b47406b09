"""Times this against the same work in PyTorch: `make bench`; `--works=laptop,baby` for a part.

Training steps, evaluation, generation, starting, and the input pipeline alone (works.py), in the
sizes of the experiments; one that trains in bfloat16 is timed in float32, too. Prints a table,
writes it with what the machine is to benchmarks/results.json, and draws benchmarks/results.png.
Times are medians over the rounds; the ratio is the median of each round's, above 1 where ours is
faster. All works together take hours, and what is measured is written as it comes.
"""

import os
from pathlib import Path

from absl import flags
from rich.console import Console

from benchmarks import results, show, start, works
from benchmarks.measure import Row, Turns, input_pipeline, side_by_side
from runtime import errors, process

CHOSEN = flags.DEFINE_list("works", list(works.WORKS), "Which works.")
SMOKE = flags.DEFINE_bool("smoke", False, "The experiments' smallest sizes: whether all runs.")
TOKENS = flags.DEFINE_integer("tokens", 500, "How many tokens are generated.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns that each side gets.")
SECONDS = flags.DEFINE_float("seconds", 0.5, "How long a turn takes at least.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results.json", "The file to write.")

# Where there is no terminal: a pipe or a file.
WIDTH = 190


def main() -> None:
    output = Path(OUTPUT.value)
    check(output)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    with console.status("how fast this machine multiplies"):
        found = results.Results(output, results.machine())
    console.print(found.beginning)
    for name in CHOSEN.value:
        with console.status(f"{name}: in turn"):
            found.put(measure(name, "bfloat16" in found.machine["peak_gflops"]["ours"]))
    show.plot(found.rows, output.with_suffix(".png"))
    console.print(show.table(found.rows))
    console.print(f"ratio: PyTorch's time over ours; with the machine's facts in {output}")


def check(output: Path) -> None:
    """Raises UserError for a wrong flag: before the hours that measuring takes."""
    unknown = [name for name in CHOSEN.value if name not in works.WORKS]
    if unknown or not CHOSEN.value:
        known = ",".join(works.WORKS)
        raise errors.UserError(f"--works={','.join(unknown)}: expected some of {known}")
    if ROUNDS.value < 1 or not 0 < SECONDS.value < float("inf"):
        raise errors.UserError(
            f"--rounds={ROUNDS.value} --seconds={SECONDS.value}: expected 1 or more, and above 0"
        )
    for name in CHOSEN.value:
        works.config_of(name, smoke=SMOKE.value, num_tokens=TOKENS.value)
    if output.suffix != ".json" or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise errors.UserError(
            f"--output={output}: expected a .json file in a folder that can be written"
        )


def measure(name: str, fast_bfloat16: bool) -> list[Row]:
    """The rows of a work; of a smoke's, which are none to keep, the names say so."""
    kind = works.WORKS[name].kind
    turns = Turns(ROUNDS.value, SECONDS.value)
    config = works.config_of(name, smoke=SMOKE.value, num_tokens=TOKENS.value)
    experiment = works.experiment(name, smoke=SMOKE.value)
    if kind == "start":
        rows = start.starts(name, experiment, config, ROUNDS.value)
    elif kind == "command":
        rows = [start.command(name, experiment, ROUNDS.value)]
    elif kind == "input":
        rows = [input_pipeline(name, config, turns)]
    else:
        rows = [side_by_side(name, config, turns)]
        # Where products of bfloat16 are slow, both are in float32 already.
        if kind == "training" and fast_bfloat16 and config.train.precision == "bfloat16":
            config.train.precision = "float32"
            rows.append(side_by_side(name, config, turns))
    return [{**row, "work": f"{row['work']}:smoke"} for row in rows] if SMOKE.value else rows


if __name__ == "__main__":
    process.set_up_malloc()  # The workers inherit it: both sides.
    errors.run_command(main)
