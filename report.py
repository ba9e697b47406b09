"""Compares runs: prints a table and writes one HTML page that opens anywhere.

    python report.py runs/ladder --output=report.html
    python report.py runs/ladder --watch

FOLDER is a run folder or a folder of run folders; it takes any number of them. The command reads
only the files of the runs and loads no model.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()


import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from absl import flags
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

import run_folder
from reporting import sweeps
from reporting.records import records
from reporting.rows import COLUMNS, NUMBERS, table
from reporting.runs import DEPTHS, Run, read_runs
from runtime import errors
from runtime.terminal import announce

OUTPUT = flags.DEFINE_string("output", "report.html", "The HTML page to write.")
DATA = flags.DEFINE_string("data", "", "A file to write the results to, as JSON.")
FIGURES = flags.DEFINE_string("figures", "", "A folder to write the charts to, as SVG.")
WATCH = flags.DEFINE_boolean(
    "watch", False, "Serve the page to this machine alone, renewed while runs go on; write no file."
)
PORT = flags.DEFINE_integer("port", 8642, "Port of --watch; 0: any free one.", 0, 65535)

# The one column whose text wraps, and its least width.
NOTES, NOTES_WIDTH = "notes", 30
# Longer names may be folded.
NAME_WIDTH = 40
# Columns that a narrow terminal drops, first to last; the page has them all.
DROPPED = (NOTES, "train loss", "tokens", "FLOPs", "parameters", "seconds", "vs previous stage")
# Characters of a line if the output is a pipe or a file.
WIDTH = 170


def main(*folders: str) -> None:
    if not folders:
        raise errors.UserError("no run to compare: name a folder, python report.py FOLDER ...")
    paths = [Path(folder) for folder in folders]
    announce(f"reading {' '.join(folders)}")
    if WATCH.value:
        serve(paths)
    runs, unread = read_runs(paths)
    for line in unread:
        print(f"warning: left out: {line}", file=sys.stderr)
    # Altair takes a second to load, so the checks above come first.
    from reporting import figures, inside, page, sweep_charts

    looked = inside.read(runs)
    swept = [(sweep, sweep_charts.charts(sweep)) for sweep in sweeps.find(runs)]
    shown = page.render(
        runs,
        swept,
        [*unread, *looked.unread],
        insides=looked.insides,
        playgrounds=playgrounds(paths, Path(OUTPUT.value).parent),
    )
    write(OUTPUT, shown)
    if DATA.value:
        found = [statement for sweep, _ in swept for statement in sweeps.statements(sweep)]
        gaps = [gap for sweep, _ in swept for gap in sweep.gaps]
        write(DATA, json.dumps(records(runs, found, gaps), indent=1) + "\n")
    drawn: list[Path] = []
    if FIGURES.value:
        drawn = figures.write(Path(FIGURES.value), runs, [specs for _, specs in swept])
    print_table(runs)
    for sweep, _ in swept:
        print_sweep(sweep)
    print(f"report: {OUTPUT.value}")
    if drawn:
        print(f"figures: {FIGURES.value}, {len(drawn)} of them")
    print_wandb_commands([folder.rstrip("/") or "/" for folder in folders])


def playgrounds(folders: Sequence[Path], origin: Path) -> list[str]:
    """Returns the addresses of the pages of playground.py in `folders`, relative to `origin`."""
    pages = (folder / run_folder.PLAYGROUND for folder in folders)
    return [quote(os.path.relpath(page, origin)) for page in pages if page.is_file()]


def serve(folders: Sequence[Path]) -> NoReturn:
    """Serves the page, and renews it, until Ctrl-C."""
    for flag in (OUTPUT, DATA, FIGURES):
        if flag.present:
            raise errors.UserError(
                f"--{flag.name}={flag.value}: --watch writes no file; leave it out"
            )
    from reporting import page, sweep_charts, watch

    def render(version: str) -> str:
        runs, unread = read_runs(folders)
        swept = [(sweep, sweep_charts.charts(sweep)) for sweep in sweeps.find(runs)]
        return page.render(runs, swept, unread, version)

    watch.watch(folders, PORT.value, render)


def write(flag: flags.FlagHolder[str], text: str) -> None:
    """Writes the file that a flag names. Raises UserError if it can't be written."""
    try:
        # A sample or a file name may hold half of a surrogate pair, which UTF-8 can't encode.
        Path(flag.value).write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise errors.UserError(
            f"--{flag.name}={flag.value} can't be written: {error.strerror}"
        ) from None


def print_table(runs: Sequence[Run]) -> None:
    """Prints the comparison table, with as many columns as the terminal has room for."""
    rows = table(runs)
    columns = list(rows[0])
    console = Console(highlight=False)
    if not sys.stdout.isatty():
        console.width = max(WIDTH, table_width(rows, columns))
    for column in DROPPED:
        # Rich would shorten all columns instead, and a number without its last digits is wrong.
        if column in columns and table_width(rows, columns) > console.width:
            columns.remove(column)
    console.print(grid(rows, columns))
    for column in ("train loss", "val loss", "vs previous stage"):
        if column in columns:
            console.print(Text(f"{column}: {COLUMNS[column]}"))


def print_sweep(sweep: sweeps.Sweep) -> None:
    """Prints the best run of a sweep and its findings."""
    print(f"sweep {sweep.sweep_id}: {sweeps.counts(sweep)}")
    if sweep.question:
        print(sweep.question)
    # A loss is comparable on one text alone.
    if (best := sweep.best) and not sweep.gaps:
        print(f"best {sweep.metric} {sweep.value(best):.4f}, {best.name}: {sweeps.command(best)}")
    for statement in sweeps.statements(sweep):
        print(f"- {statement}")


def table_width(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> int:
    """Returns the least width of a line of the table, in terminal cells."""
    # One row of the longest cells is as wide as all rows, and soon measured.
    rows = [{column: max((row[column] for row in rows), key=cell_len) for column in columns}]
    fixed = [column for column in columns if column != NOTES]
    least = Console(width=10_000).measure(grid(rows, fixed)).maximum
    return least if NOTES not in columns else least + NOTES_WIDTH


def grid(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> Table:
    """Returns the given columns of the comparison as a Rich table."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column in NUMBERS
        longest = max(cell_len(row[column]) for row in rows)
        result.add_column(
            column,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
            min_width=None if column == NOTES else min(NAME_WIDTH, longest),
        )
    for row in rows:
        # Rich would read [red] in a str as markup.
        result.add_row(*[Text(row[column]) for column in columns])
    return result


def print_wandb_commands(folders: Sequence[str]) -> None:
    """Prints the W&B commands that show and upload the offline runs in `folders`, if any."""
    patterns = [
        (folder, f"{depth}wandb/offline-run-*")
        for folder in folders
        for depth in DEPTHS
        if any(Path(folder).glob(f"{depth}wandb/offline-run-*"))
    ]
    if not patterns:
        return
    # The paths of this Python serve an environment that is not activated.
    is_active = shutil.which("python") == sys.executable
    python = "python" if is_active else shlex.quote(os.path.relpath(sys.executable))
    wandb = "wandb" if is_active else shlex.quote(str(Path(python).with_name("wandb")))
    named = " ".join(dict.fromkeys(shlex.quote(folder) for folder, _ in patterns))
    runs = " ".join(f"{shlex.quote(folder)}/{pattern}" for folder, pattern in patterns)
    print(f"show them in the terminal: {python} -m tracking.dashboard {named}")
    print(f"upload them: {wandb} sync {runs}")


if __name__ == "__main__":
    errors.run_command(main, positional=True)
