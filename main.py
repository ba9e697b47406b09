"""One run: `python main.py --config=gpt2:smoke --config.train.num_steps=50`.

`--list` shows the experiments and their presets.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()
    process.set_up_malloc()  # First of all: what was imported would be imported again.

import shlex
import sys
from collections.abc import Container
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

import run_folder
from config import check, list_flags
from experiments import default, listing
from runtime import cluster, errors
from runtime.terminal import announce
from tracking import sweep
from training import topology

list_flags.register()
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment, by its name or its file, with a preset after a colon: gpt2:smoke, my/own.py. "
    "Its keys are flags: --config.optimizer.learning_rate=1e-3.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    "",
    "Run folder to write. Default: runs/<experiment>-<time>; in a W&B sweep runs/sweep-<id>/<run>.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "Of several processes: HOST:PORT of process 0. SLURM and Open MPI tell it."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", -1, "Processes that train the run; 1: alone, whatever started this process."
)
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of the processes this is, from 0 on.")
JOIN_SECONDS = flags.DEFINE_integer(
    "join_seconds", 300, "Longest time to wait for the other processes.", lower_bound=1
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Compiles the training step and prints what the run needs; does not train."
)
FOR = flags.DEFINE_string(
    "for", "", "With --dry_run: GPUs that are elsewhere, as h100x8. Needs make gpu-compile."
)
LIST = flags.DEFINE_bool("list", False, "Lists all experiments and presets, a line each.")


def main() -> None:
    if LIST.value:
        print("\n".join(listing.details()))
        return
    if not flags.FLAGS["config"].present:
        print("\n".join(listing.overview()))
        raise errors.UserError(
            "--config is missing: name an experiment, python main.py --config=gpt2:smoke; --list "
            "describes each"
        )
    named = config_flags.get_config_filename(flags.FLAGS["config"])
    if missing := listing.explain(named):
        raise errors.UserError(missing)
    if DRY_RUN.value or FOR.value:
        show_needs(named)
        return
    swept = sweep.current()
    if chosen := WORKDIR.value or (str(swept.folder) if swept else ""):
        run(named, Path(chosen))
        return
    with run_folder.new_folder(Path("runs"), default.name_of(named).partition(":")[0]) as workdir:
        run(named, workdir)


def show_needs(named: str) -> None:
    """Prints what the experiment that --config names needs."""
    if not DRY_RUN.value:
        raise errors.UserError(f"--for={FOR.value}: expected it with --dry_run")
    if COORDINATOR.value or NUM_PROCESSES.value > 1:
        raise errors.UserError(
            "--dry_run takes one process: leave out --coordinator and --num_processes, and name "
            "all GPUs by --for=h100x16, for example"
        )
    if FOR.value:
        topology.count_of(FOR.value)
        topology.prepare()
    process.configure_jax()
    from train import complete
    from training import dry_run

    config, chosen = described(named)
    dry_run.show(complete(config, Path(), chosen), FOR.value)


def run(named: str, workdir: Path) -> None:
    """Trains the experiment that --config names."""
    announce(f"starting {default.name_of(named)}")
    # When the flags are known to be good: JAX takes a second to load.
    cluster.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, JOIN_SECONDS.value)
    process.configure_jax()
    from train import train_and_evaluate

    config, chosen = described(named)
    cluster.end_as_one(lambda: train_and_evaluate(config, workdir, chosen), COORDINATOR.value)
    if sys.stdout.isatty():
        prompt = " --prompt=ROMEO:" * (config.data.name == default.get_config().data.name)
        print(f"next: python generate.py --workdir={shlex.quote(str(workdir))}{prompt}")


def described(named: str) -> tuple[ConfigDict, Container[str]]:
    """Returns the config of the experiment, and the keys of it that flags have set."""
    config = CONFIG.value
    config.tracking.experiment = config.tracking.experiment or default.name_of(named)
    return config, config_flags.get_override_values(flags.FLAGS["config"])


def ordered(argv: list[str]) -> list[str]:
    """Returns the flags with the experiment's file first, by its path.

    ml_collections wants it before its keys; an agent of a sweep sends them in any order.
    """
    if "--config" in argv[:-1]:
        place = argv.index("--config")
        argv = [*argv[:place], f"--config={argv[place + 1]}", *argv[place + 2 :]]
    words = [
        f"--config={listing.locate(word.removeprefix('--config='))}"
        if word.startswith("--config=")
        else word
        for word in argv
    ]
    return sorted(words, key=lambda word: not word.startswith("--config="))


if __name__ == "__main__":
    sys.argv[1:] = ordered(sys.argv[1:])
    errors.run_command(main, explain=check.explain_flags)
