"""Runs a W&B sweep file on this machine, with local workers and no server.

    python sweeps/run.py sweeps/compare_stages.yaml --workdir=runs/sweep --workers=2

Stopped or killed, the sweep resumes with the same command: it leaves finished runs alone, and
resumes interrupted ones from their last checkpoints.
"""

import secrets
import shlex
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from runtime import process

if __name__ == "__main__":
    process.require_packages()
    process.set_up_malloc()  # First of all: what was imported would be imported again.

from absl import flags

import run_folder
from config.check import MAX_SEED
from runtime import errors
from runtime.terminal import escape_controls
from sweep_engine import command, search, sweep_file, view
from sweep_engine.journal import DIVERGED, FAILED, Journal
from sweep_engine.runner import SweepRunner

WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the sweep. Default: runs/<file>-<time>.")
WORKERS = flags.DEFINE_integer(
    "workers", 1, "Runs at a time; they share the cores and the GPUs.", lower_bound=1
)
COUNT = flags.DEFINE_integer(
    "count", 0, "Runs in all. Default: the whole grid, or the run_cap.", lower_bound=0
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of a random or Bayesian search.", 0, MAX_SEED)
RETRIES = flags.DEFINE_integer("retries", 2, "Retries of a run that fails.", lower_bound=0)
PRESET = flags.DEFINE_string(
    "preset",
    "",
    "Preset to add to each experiment, such as smoke; it replaces the file's fixed flags.",
)
PRINT_YAML = flags.DEFINE_bool(
    "print_yaml", False, "Only print the sweep file with --preset in it, for `wandb sweep`."
)
SWEEP_ID = flags.DEFINE_string(
    "sweep_id", "", "Id from `wandb sweep`, for uploading to that sweep. Default: a new id."
)


def main(*files: str) -> None:
    if len(files) != 1:
        raise errors.UserError(f"expected one sweep file, not {len(files)}: sweeps/run.py FILE")
    path = Path(files[0])
    sweep, text = sweep_file.read(path)
    if PRESET.value:
        sweep = sweep_file.with_preset(sweep, PRESET.value)
    if PRINT_YAML.value:
        print(sweep_file.to_yaml(sweep, text), end="")
        return
    total = search.num_runs(sweep, COUNT.value)
    # Finds a mistake in the command before anything is written.
    command.build(sweep, search.values_at(sweep, {}), Path("x"))
    if WORKDIR.value:
        run(sweep, text, Path(WORKDIR.value), total)
        return
    with run_folder.new_folder(Path("runs"), path.stem) as folder:
        run(sweep, text, folder, total)


def run(sweep: sweep_file.SweepFile, text: str, folder: Path, total: int) -> None:
    """Runs a sweep in a folder, and prints what came out. Raises Failed if it can't be written."""
    sweep_id = SWEEP_ID.value or secrets.token_hex(4)
    try:
        journal = Journal(folder, text, SEED.value, PRESET.value, sweep_id)
        runner = SweepRunner(sweep, journal, total, WORKERS.value, RETRIES.value)
        runner.run()
    except OSError as error:
        raise errors.Failed(
            f"{folder} can't be written ({error}); what is recorded is kept: make room, and the "
            "same command resumes"
        ) from None
    print_results(runner)
    if any(run.outcome == FAILED for run in journal.runs):
        sys.exit(errors.FAILED)


def print_results(runner: SweepRunner) -> None:
    """Prints the runs that failed or diverged, the best run, and commands to look at them all."""
    journal, metric = runner.journal, runner.sweep.metric
    for run in journal.runs:
        if run.outcome in (DIVERGED, FAILED):
            print(escape_controls(f"{run.outcome} {run.name}: {run.reason}"))
    if best := view.best_of(journal.runs, metric):
        value = view.format_value(best.value)
        print(f"best {metric.name} {value}: {command.as_typed(runner.argv(best))}")
    folder = shlex.quote(str(journal.folder))
    print(f"compare: python report.py {folder} --output={folder}/report.html")
    print(f"upload as sweep {journal.sweep_id}: wandb sync {folder}/*/wandb/offline-run-*")


if __name__ == "__main__":
    errors.run_command(main, positional=True)
