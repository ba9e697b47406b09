"""A sweep on this machine, with no server: the file that `wandb sweep` takes, and local workers.

    python sweeps/run.py sweeps/compare_stages.yaml --workdir=runs/sweep --workers=2

Stop it whenever you like, or let it be killed: the same command goes on. No finished run is
repeated, and an interrupted one is resumed from its last checkpoint.
"""

import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from absl import flags

import run_folder
from runtime import errors, process
from runtime.terminal import inert
from sweep_engine import command, journal, search, sweep_file, view
from sweep_engine.journal import DIVERGED, FAILED, FINISHED, STOPPED, Journal, SweepRun
from sweep_engine.sweep_file import Metric, SweepFile
from sweep_engine.workers import Workers

# Where nothing else is named: what all stages are compared by.
DEFAULT_METRIC = Metric("val/loss")
# What a program imports before it knows its task; nothing that defines flags, or asks JAX for its
# devices.
MODULES = {"main.py": ("train",)}
# Between two looks at the runs that are under way.
LOOK_SECONDS = 0.25
# What a run has to end in once it is asked to; then it is killed.
GRACE_SECONDS = 20
# The sweep gives up when this many runs have failed and none has ended well.
HOPELESS = 3
SOME_FAILED = 1


class Sweep:
    """A sweep file at work in its folder."""

    def __init__(self, sweep: SweepFile, opened: Journal, total: int) -> None:
        flag = flags.FLAGS
        self.sweep = sweep
        self.metric = sweep.metric or DEFAULT_METRIC
        self.journal = opened
        self.total = total
        self.seed, self.retries = flag.seed, flag.retries
        self.num_workers = flag.workers
        self.workers = Workers(flag.workers, MODULES.get(sweep.program, ()))
        self.view = view.open_view()
        self.running: dict[str, view.Progress] = {}
        self.records: dict[str, Record] = {}
        self.asked: dict[str, float] = {}  # When a run was asked to stop.
        self.durations: list[float] = []

    def run(self) -> None:
        """Until all runs have ended."""
        for run in self.journal.runs:
            self.records[run.folder] = Record(self.folder(run), self.metric.name)
            if run.outcome:
                self.records[run.folder].read()
        try:
            while self.fill_up() or self.workers.running:
                for folder, code in self.workers.wait(LOOK_SECONDS):
                    self.ended(self.by_folder(folder), code)
                self.look()
                self.view.show(self.overview())
        except KeyboardInterrupt:
            self.stop_all()
            raise
        finally:
            self.view.close()
            self.workers.close()

    def fill_up(self) -> bool:
        """Starts what there is room for; whether anything is still to be started."""
        while (run := self.next_run()) is not None:
            if not self.workers.has_room:
                return True
            self.start(run)
        return not self.is_over()

    def is_over(self) -> bool:
        """Whether no run is to be started any more."""
        runs = self.journal.runs
        if any(run.value is not None and self.metric.reaches_target(run.value) for run in runs):
            return True
        failed = sum(run.outcome == FAILED for run in runs)
        if failed >= HOPELESS and failed == sum(bool(run.outcome) for run in runs):
            return True
        return len(runs) >= self.total and all(run.outcome for run in runs)

    def next_run(self) -> SweepRun | None:
        """The run to start next: one that was interrupted, or a new one; None: not now."""
        if self.is_over():
            return None
        for run in self.journal.runs:
            if not run.outcome and run.folder not in self.running:
                return run
        if len(self.journal.runs) >= self.total or not self.workers.has_room:
            return None
        return self.propose()

    def propose(self) -> SweepRun | None:
        """A new run; None if a Bayesian search has to wait for results first.

        Run k is chosen by the results of runs 1 to k - workers, no more and no fewer, whichever
        ended first: so a search with the same seed and workers repeats exactly.
        """
        runs = self.journal.runs
        number = len(runs) + 1
        point: dict[str, float] = {}
        if self.sweep.method == "grid":
            parameters = search.grid_point(self.sweep, number)
        else:
            told = runs[: max(number - self.num_workers, 0)] if self.is_bayes else []
            if not all(run.outcome for run in told):
                return None
            tried = [search.Tried(run.point, None) for run in runs[len(told) :]]
            point = search.propose(self.sweep, self.seed, number, [*self.costs(told), *tried])
            parameters = search.values_at(self.sweep, point)
        run = self.journal.propose(secrets.token_hex(4), parameters, point)
        self.records[run.folder] = Record(self.folder(run), self.metric.name)
        return run

    @property
    def is_bayes(self) -> bool:
        """Whether a point depends on what earlier ones came to."""
        return self.sweep.method == "bayes"

    def costs(self, runs: list[SweepRun]) -> Iterator[search.Tried]:
        """What the search is told: a run without a value was as bad as the worst that has one."""
        costs = [None if run.value is None else self.metric.cost(run.value) for run in runs]
        worst = max((cost for cost in costs if cost is not None), default=0.0)
        for run, cost in zip(runs, costs, strict=True):
            yield search.Tried(run.point, worst if cost is None else cost)

    def folder(self, run: SweepRun) -> Path:
        """The run's own folder."""
        return self.journal.folder / run.folder

    def by_folder(self, folder: str) -> SweepRun:
        """The run in a folder."""
        return next(run for run in self.journal.runs if run.folder == folder)

    def argv(self, run: SweepRun) -> list[str]:
        """The run's command, without its folder."""
        json_file = self.journal.folder / "parameters" / f"{run.folder}.json"
        return command.build(self.sweep, run.parameters, json_file)

    def start(self, run: SweepRun) -> None:
        """Starts `run`, or goes on with it."""
        if run.is_stopping:  # It was to be stopped when the sweep itself was killed.
            self.journal.end(run, STOPPED, self.records[run.folder].read().value)
            return
        argv = self.argv(run)
        places = {name: self.journal.folder / name for name in ("parameters", "logs", "locks")}
        for place in places.values():
            place.mkdir(exist_ok=True)
        parameters = places["parameters"] / f"{run.folder}.yaml"
        journal.write_parameters(parameters, run.parameters)
        command.write_json_file(parameters.with_suffix(".json"), run.parameters)
        self.journal.start(run)
        # What varies is said once, as W&B's agent would say it.
        environment = {
            "WANDB_MODE": "offline",
            **os.environ,
            "WANDB_SWEEP_ID": self.journal.sweep_id,
            "WANDB_RUN_ID": run.run_id,
            "WANDB_SWEEP_PARAM_PATH": str(parameters.absolute()),
        }
        self.running[run.folder] = view.Progress(time.monotonic())
        self.workers.start(
            run.folder,
            [*argv, f"--workdir={self.folder(run)}", command.RESUME],
            environment,
            places["logs"] / f"{run.folder}.log",
            places["locks"] / run.folder,
        )
        again = "start" if run.starts == 1 else "go on with"
        self.view.event(f"{again} {run.number}/{self.total}: {command.shown(argv)}")

    def look(self) -> None:
        """Reads what the runs have logged since, and stops those that early termination ends."""
        for folder, progress in self.running.items():
            record = self.records[folder].read()
            progress.steps, progress.value = record.steps, record.value
            progress.num_steps = progress.num_steps or num_steps(self.journal.folder / folder)
        if self.sweep.early_terminate:
            self.terminate_early()
        for folder, when in list(self.asked.items()):
            if time.monotonic() > when + GRACE_SECONDS:
                self.workers.signal(folder, signal.SIGKILL)

    def terminate_early(self) -> None:
        """Asks the runs that hyperband gives up to stop."""
        histories = {
            folder: [self.metric.cost(value) for value in record.values]
            for folder, record in self.records.items()
        }
        running = [folder for folder in self.running if folder not in self.asked]
        for folder in sorted(self.sweep.early_terminate.to_stop(histories, running)):
            self.journal.stop(self.by_folder(folder))
            self.asked[folder] = time.monotonic()
            self.workers.signal(folder, signal.SIGTERM)

    def ended(self, run: SweepRun, code: int) -> None:
        """Writes down how a process ended, and with it, unless it is to be tried again, its run."""
        self.asked.pop(run.folder, None)
        progress = self.running.pop(run.folder)
        record = self.records[run.folder].read()
        value, reason = record.value, ""
        if code == 0 and value is None:
            code, reason = 1, f"it ended without a value of {self.metric.name}"
        if code == 0:
            outcome = FINISHED
        elif run.is_stopping:
            outcome = STOPPED
        elif code == errors.DIVERGED:
            outcome, value, reason = DIVERGED, None, self.last_line(run)
        else:
            outcome, value = FAILED, None
            reason = reason or f"{describe(code)}: {self.last_line(run)}"
            # A mistake of the user's does not mend itself.
            if code != errors.USER_ERROR and run.failures < self.retries:
                self.journal.fail(run, reason)
                self.view.event(f"{run.folder} is tried again: {reason}")
                return
        self.journal.end(run, outcome, value, reason)
        seconds = time.monotonic() - progress.since
        if outcome == FINISHED:
            self.durations.append(seconds)
        said = f"{self.metric.name} {view.number_text(value)}" if value is not None else reason
        self.view.event(f"{outcome} {run.folder}: {said} ({seconds:.1f} s)")
        if isinstance(self.view, view.Lines):
            self.view.event(self.overview().headline())

    def last_line(self, run: SweepRun) -> str:
        """The last thing that a run printed."""
        log = self.journal.folder / "logs" / f"{run.folder}.log"
        lines = (
            log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        )
        return next((line for line in reversed(lines) if line.strip()), "it printed nothing")[:300]

    def stop_all(self) -> None:
        """Asks all runs to stop, and kills those that do not; they can be gone on with."""
        self.view.event("stopping: the same command will go on from here")
        until = time.monotonic() + GRACE_SECONDS
        for folder in self.workers.running:
            self.workers.signal(folder, signal.SIGTERM)
        while self.workers.running and time.monotonic() < until:
            self.workers.wait(LOOK_SECONDS)

    def overview(self) -> view.Overview:
        """Where the sweep stands."""
        return view.Overview(
            self.journal.runs,
            self.running,
            self.metric,
            self.total,
            self.num_workers,
            self.durations,
        )


class Record:
    """The finite values of the metric in a run's metrics.jsonl, read as they are written."""

    def __init__(self, folder: Path, metric: str) -> None:
        self._path = folder / run_folder.METRICS
        self._metric = metric
        self._size = -1
        self.values: list[float] = []
        self.steps = 0

    @property
    def value(self) -> float | None:
        """The newest; None if there is none."""
        return self.values[-1] if self.values else None

    def read(self) -> "Record":
        """Takes in what has been written since."""
        size = self._path.stat().st_size if self._path.exists() else -1
        if size != self._size:
            self._size = size
            lines = list(run_folder.read_lines(self._path))
            values = [line[self._metric] for line in lines if line.get(self._metric) is not None]
            self.values = [value for value in values if math.isfinite(value)]
            self.steps = lines[-1]["step"] if lines else 0
        return self


def num_steps(folder: Path) -> int:
    """How many updates a run is to make; 0 while it has not said so."""
    path = folder / run_folder.CONFIG
    return run_folder.read_json(path)["train"]["num_steps"] if path.exists() else 0


def describe(code: int) -> str:
    """An exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def count_runs(sweep: SweepFile, count: int) -> int:
    """How many runs the sweep is to have. Raises UserError if nothing says so."""
    bounds = [search.num_points(sweep), sweep.run_cap, count or None]
    known = [bound for bound in bounds if bound is not None]
    if not known:
        raise errors.UserError(
            f"a {sweep.method} search has no end of points: give --count, or run_cap in the file"
        )
    return min(known)


def report_end(made: Sweep) -> bool:
    """Prints what came of the sweep and how to look at it; whether no run failed."""
    runs = made.journal.runs
    for run in runs:
        if run.outcome in (DIVERGED, FAILED):
            print(inert(f"{run.outcome} {run.folder}: {run.reason}"))
    if best := view.best_of(runs, made.metric):
        print(f"best {made.metric.name} {best.value:.4f}: {command.shown(made.argv(best))}")
    folder = made.journal.folder
    print(f"compare: python report.py {folder} --output={folder}/report.html")
    print(f"upload as sweep {made.journal.sweep_id}: wandb sync {folder}/*/wandb/offline-run-*")
    return all(run.outcome != FAILED for run in runs)


def main(*files: str) -> None:
    flag = flags.FLAGS
    if len(files) != 1:
        raise errors.UserError(f"expected one sweep file, not {len(files)}: sweeps/run.py FILE")
    for name, least in (("workers", 1), ("count", 0), ("seed", 0), ("retries", 0)):
        if flag[name].value < least:
            raise errors.UserError(f"--{name}={flag[name].value}: expected {least} or more")
    sweep, text = sweep_file.read(Path(files[0]))
    if flag.preset:
        sweep = sweep_file.with_preset(sweep, flag.preset)
    total = count_runs(sweep, flag.count)
    # A mistake in the command is found before anything is written.
    values = [parameter.value_at(0.5) for parameter in sweep.parameters]
    names = [parameter.name for parameter in sweep.parameters]
    command.build(sweep, dict(zip(names, values, strict=True)), Path("x"))
    folder = Path(flag.workdir or f"runs/{Path(files[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    opened = Journal(folder, text, flag.seed, flag.preset, flag.sweep_id or secrets.token_hex(4))
    made = Sweep(sweep, opened, total)
    made.run()
    if not report_end(made):
        sys.exit(SOME_FAILED)


def define_flags() -> None:
    """The flags; not when imported, for another program may have some of the same name."""
    flags.DEFINE_string("workdir", "", "Folder of the sweep. Default: runs/<file>-<time>.")
    flags.DEFINE_integer("workers", 1, "Runs at a time; they share the cores and the GPUs.")
    flags.DEFINE_integer("count", 0, "Runs in all. Default: the whole grid, or the run_cap.")
    flags.DEFINE_integer("seed", 0, "Draws the points of a random or Bayesian search.")
    flags.DEFINE_integer("retries", 2, "How often a run that fails is tried again.")
    flags.DEFINE_string(
        "preset", "", "Of the experiments, such as smoke; what the file holds fixed is left to it."
    )
    flags.DEFINE_string(
        "sweep_id", "", "Of a sweep that `wandb sweep` made, to upload to. Default: a new one."
    )


if __name__ == "__main__":
    process.set_up_malloc()
    define_flags()
    errors.run_command(main, positional=True)
