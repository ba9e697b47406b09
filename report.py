"""Compares runs: a table here, and one HTML page that opens anywhere.

    python report.py runs/ladder --output=report.html

FOLDER is a run folder or a folder of run folders; it takes any number of them. Nothing but what
the runs wrote is read: no model is loaded.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reporting import sweeps
from reporting.rows import COLUMNS, NUMBERS, table
from reporting.runs import DEPTHS, Run, read_runs
from runtime import errors

OUTPUT = flags.DEFINE_string("output", "report.html", "The HTML page to write.")
FIGURES = flags.DEFINE_string("figures", "", "A folder to write the charts to, as SVG.")

# The one column whose text wraps, and the room it needs for that.
SENTENCE, SENTENCE_WIDTH = "what it adds", 30
# A longer name is folded if it must be.
NAME_WIDTH = 40
# What a narrow terminal goes without, first to last; the page has it all.
LEAST_NEEDED = (
    SENTENCE,
    "train loss",
    "tokens",
    "FLOPs",
    "parameters",
    "what that bought",
    "seconds",
)
# Where there is no terminal: a pipe or a file.
WIDTH = 170


def main(*folders: str) -> None:
    if not folders:
        raise errors.UserError("no run to compare: name a folder, python report.py FOLDER ...")
    runs, unread = read_runs([Path(folder) for folder in folders])
    for line in unread:
        print(f"warning: left out: {line}", file=sys.stderr)
    # Altair takes a second to load: after the mistakes that need no page.
    from reporting import figures, page, sweep_charts

    swept = [(sweep, sweep_charts.charts(sweep)) for sweep in sweeps.find(runs)]
    write(Path(OUTPUT.value), page.render(runs, swept, unread))
    drawn: list[Path] = []
    if FIGURES.value:
        try:
            drawn = figures.write(Path(FIGURES.value), runs, [made for _, made in swept])
        except OSError as error:
            raise errors.UserError(
                f"--figures={FIGURES.value}: {error.filename} can't be written: {error.strerror}; "
                "name a folder that can be written to"
            ) from None
    # A name may hold what an old terminal has no character for.
    sys.stdout.reconfigure(errors="replace")
    print_table(runs)
    for sweep, _ in swept:
        print_sweep(sweep)
    print(f"report: {OUTPUT.value}")
    if drawn:
        print(f"figures: {FIGURES.value}, {len(drawn)} of them")
    print_wandb_commands([folder.rstrip("/") or "/" for folder in folders])


def write(output: Path, page: str) -> None:
    """Writes the page. Raises UserError if that can't be done."""
    try:
        # Half of a surrogate pair, out of a sample or a file name, has no bytes.
        output.write_bytes(page.encode("utf-8", "replace"))
    except OSError as error:
        raise errors.UserError(f"--output={output} can't be written: {error.strerror}") from None


def print_table(runs: Sequence[Run]) -> None:
    """The comparison as a table, with the columns that the terminal has room for."""
    rows = table(runs)
    columns = list(rows[0])
    console = Console(highlight=False)
    if not sys.stdout.isatty():
        console.width = max(WIDTH, width(rows, columns))
    for column in LEAST_NEEDED:
        # Rich would cut them all instead, and digits that are missing make a wrong number.
        if column in columns and width(rows, columns) > console.width:
            columns.remove(column)
    console.print(grid(rows, columns))
    for column in ("train loss", "val loss", "what that bought"):
        if column in columns:
            console.print(Text(f"{column}: {COLUMNS[column]}"))


def print_sweep(sweep: sweeps.Sweep) -> None:
    """What a sweep found, in lines."""
    print(f"sweep {sweep.sweep_id}: {sweeps.counts(sweep)}")
    if best := sweep.best:
        print(f"best {sweep.metric} {sweep.value(best):.4f}, {best.name}: {sweeps.command(best)}")
    for statement in sweeps.statements(sweep):
        print(f"- {statement}")


def width(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> int:
    """Characters that a line of the table takes at least."""
    fixed = [column for column in columns if column != SENTENCE]
    least = Console(width=10_000).measure(grid(rows, fixed)).maximum
    return least if SENTENCE not in columns else least + SENTENCE_WIDTH


def longest(rows: Sequence[dict[str, str]], column: str) -> int:
    """Width in terminal cells of the longest text in a column."""
    return max(cell_len(row[column]) for row in rows)


def grid(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> Table:
    """Those columns of the comparison for rich to print."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column in NUMBERS
        made.add_column(
            column,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
            min_width=None if column == SENTENCE else min(NAME_WIDTH, longest(rows, column)),
        )
    for row in rows:
        # Text, not str: rich would take [red] in a name for markup.
        made.add_row(*[Text(row[column]) for column in columns])
    return made


def print_wandb_commands(folders: Sequence[str]) -> None:
    """How to see the runs in `folders` in W&B's own tools, if W&B has written any there."""
    # Beside this Python, for those who have not activated its environment.
    beside = os.path.relpath(Path(sys.executable).with_name("wandb"))
    wandb = "wandb" if shutil.which("wandb") else shlex.quote(beside)
    patterns = [
        (folder, f"{depth}wandb/offline-run-*")
        for folder in folders
        for depth in DEPTHS
        if any(Path(folder).glob(f"{depth}wandb/offline-run-*"))
    ]
    if not patterns:
        return
    folder, pattern = patterns[0]
    if pattern.startswith("wandb/") and len(patterns) == 1:
        leet = f"{wandb} leet {shlex.quote(folder)}/wandb"
    else:
        # `wandb leet` lists the runs of one folder and looks no deeper, but it follows links.
        runs = " ".join(
            ("" if os.path.isabs(folder) else '"$PWD"/') + f"{shlex.quote(folder)}/{pattern}"
            for folder, pattern in patterns
        )
        leet = f'all=$(mktemp -d) && ln -s {runs} "$all" && {wandb} leet "$all"'
    print(f"look at them in the terminal: {leet}")
    runs = " ".join(f"{shlex.quote(folder)}/{pattern}" for folder, pattern in patterns)
    print(f"upload them: {wandb} sync {runs}")


if __name__ == "__main__":
    errors.run_command(main, positional=True)
