"""Benchmark against PyTorch: `make bench`; `--works=laptop,baby` for some of it.

Training steps, evaluation, generation, start-up, and the input pipeline alone (workloads.py), in
the sizes of the experiments; a workload that trains in bfloat16 is timed in float32, too. Prints a
table, writes it with a description of the machine to benchmarks/results.json, and draws
benchmarks/results.png. Times are medians over the rounds; the ratio is the median of each round's,
above 1 where ours is faster. All workloads together take hours; each row is written as it is
measured.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages("torch", ".venv-peers", "peers")


import os
from pathlib import Path

from absl import flags
from rich.console import Console

from benchmarks import checks, results, show, start, workloads
from benchmarks.measure import Row, Turns, input_pipeline, side_by_side
from runtime import errors

NAMES = flags.DEFINE_list("works", list(workloads.WORKLOADS), "Workloads to measure.")
SMOKE = flags.DEFINE_bool("smoke", False, "Use the smallest sizes, to test the benchmark.")
TOKENS = flags.DEFINE_integer("tokens", 500, "Tokens to generate.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds: turns of each side.")
SECONDS = flags.DEFINE_float("seconds", 0.5, "Minimum seconds of a turn.")
OUTPUT = flags.DEFINE_string("output", "benchmarks/results.json", "File to write.")

# Columns where the output is a pipe or a file.
WIDTH = 190


def main() -> None:
    """Measures the chosen workloads, and writes, plots and prints their rows."""
    check_flags()
    output = Path(OUTPUT.value)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    with console.status("measuring peak FLOP/s"):
        found = results.Results(output, results.machine())
    console.print(found.note)
    for name in NAMES.value:
        with console.status(f"measuring {name}"):
            found.put(measure(name, "bfloat16" in found.machine["peak_gflops"]["ours"]))
    show.plot(found.rows, output.with_suffix(".png"))
    console.print(show.table(found.rows))
    console.print(f"ratio: PyTorch's time over ours; written to {output}")


def check_flags() -> None:
    """Raises UserError for wrong flags, before the hours of measuring."""
    checks.check_choices("works", NAMES.value, workloads.WORKLOADS)
    if ROUNDS.value < 1 or not 0 < SECONDS.value < float("inf"):
        raise errors.UserError(
            f"--rounds={ROUNDS.value} --seconds={SECONDS.value}: expected 1 or more, and above 0"
        )
    for name in NAMES.value:
        workloads.config_of(name, smoke=SMOKE.value, num_tokens=TOKENS.value)
    checks.check_output(OUTPUT.value)


def measure(name: str, fast_bfloat16: bool) -> list[Row]:
    """Returns the rows of a workload; --smoke adds ":smoke" to their names."""
    kind = workloads.WORKLOADS[name].kind
    turns = Turns(ROUNDS.value, SECONDS.value)
    config = workloads.config_of(name, smoke=SMOKE.value, num_tokens=TOKENS.value)
    experiment = workloads.experiment(name, smoke=SMOKE.value)
    if kind == "start":
        rows = start.startups(name, experiment, config, ROUNDS.value)
    elif kind == "command":
        rows = [start.command(name, experiment, ROUNDS.value)]
    elif kind == "input":
        rows = [input_pipeline(name, config, turns)]
    else:
        rows = [side_by_side(name, config, turns)]
        # Without fast bfloat16 both sides have already run in float32.
        if kind == "training" and fast_bfloat16 and config.train.precision == "bfloat16":
            config.train.precision = "float32"
            rows.append(side_by_side(name, config, turns))
    return [{**row, "work": f"{row['work']}:smoke"} for row in rows] if SMOKE.value else rows


if __name__ == "__main__":
    process.set_up_malloc()  # The workers of both sides inherit it.
    # And keep the bytecode of what they import, as Python does unless it is told otherwise.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    errors.run_command(main)
