"""Loop of a sweep: starts runs, polls them, stops some early, and records how they end."""

import os
import secrets
import signal
import time
from pathlib import Path

from runtime import errors
from sweep_engine import command, search, view
from sweep_engine.journal import DIVERGED, FAILED, FINISHED, STOPPED, Journal, SweepRun
from sweep_engine.progress import Progress
from sweep_engine.sweep_file import SweepFile
from sweep_engine.workers import POLL_SECONDS, Workers

# Modules to import before forking a program's runs: none that defines flags or asks JAX for its
# devices.
MODULES = {"main.py": ("train",)}
# Time from SIGTERM to SIGKILL.
GRACE_SECONDS = 20
# The sweep gives up when this many runs have failed and none has ended otherwise.
MAX_ONLY_FAILED = 3


class SweepRunner:
    """Runs of a sweep file, on `num_workers` local workers, recorded in a journal."""

    def __init__(
        self, sweep: SweepFile, journal: Journal, total: int, num_workers: int, retries: int
    ) -> None:
        self.sweep, self.journal = sweep, journal
        self._total, self._num_workers, self._retries = total, num_workers, retries
        self._workers = Workers(num_workers, MODULES.get(sweep.program, ()))
        self._progress: dict[str, Progress] = {}  # Of all runs that were ever started.
        self._stop_times: dict[str, float] = {}  # Times of SIGTERM.
        self._durations: list[float] = []
        self._view = view.open_view()

    def run(self) -> None:
        """Returns when all runs have ended.

        Raises, after stopping them, KeyboardInterrupt, and OSError if the folder can't be written.
        """
        for run in self.journal.runs:
            if run.outcome:
                self._progress[run.name] = self._new_progress(run).read()
        try:
            while self._start_runs() or self._workers.running:
                for name, code in self._workers.wait(POLL_SECONDS):
                    self._on_exit(self.journal.find(name), code)
                self._poll()
                self._view.show(self._overview())
        except (KeyboardInterrupt, OSError):
            self._view.event("stopping: run the same command again to resume")
            self._workers.stop(GRACE_SECONDS)
            raise
        finally:
            self._view.close()
            self._workers.close()

    def _overview(self) -> view.Overview:
        running = {name: self._progress[name] for name in self._workers.running}
        metric = self.sweep.metric
        return view.Overview(
            self.journal.runs, running, metric, self._total, self._num_workers, self._durations
        )

    def _start_runs(self) -> bool:
        """Starts runs while a worker is free; returns False when none is left to start."""
        while self._workers.has_room and (run := self._next_run()) is not None:
            self._start(run)
        return not self._is_over()

    def _is_over(self) -> bool:
        runs = self.journal.runs
        if any(self.sweep.metric.reaches_target(run.value) for run in runs):
            return True
        outcomes = [run.outcome for run in runs if run.outcome]
        if len(outcomes) >= MAX_ONLY_FAILED and set(outcomes) == {FAILED}:
            return True
        return len(outcomes) == len(runs) >= self._total

    def _next_run(self) -> SweepRun | None:
        """Returns the run to start next, interrupted or new; None if there is none now."""
        if self._is_over():
            return None
        for run in self.journal.runs:
            if not run.outcome and run.name not in self._workers.running:
                return run
        return self._propose() if len(self.journal.runs) < self._total else None

    def _propose(self) -> SweepRun | None:
        """Returns a new run; None if a Bayesian search has to wait for results first.

        A Bayesian search chooses run k by the results of exactly the runs 1 to k - num_workers,
        whichever ended first, so it repeats exactly for the same seed and workers.
        """
        runs = self.journal.runs
        number = len(runs) + 1
        point: dict[str, float] = {}
        if self.sweep.method == "grid":
            parameters = search.grid_point(self.sweep, number)
        else:
            is_bayes = self.sweep.method == "bayes"
            num_known = max(number - self._num_workers, 0) if is_bayes else 0
            known, pending = runs[:num_known], runs[num_known:]
            if not all(run.outcome for run in known):
                return None
            trials = search.as_trials(known, pending, self.sweep.metric)
            point = search.propose(self.sweep, self.journal.seed, number, trials)
            parameters = search.values_at(self.sweep, point)
        return self.journal.propose(secrets.token_hex(4), parameters, point)

    def _new_progress(self, run: SweepRun) -> Progress:
        return Progress(self.journal.folder / run.name, self.sweep.metric.name)

    def _file(self, kind: str, run: SweepRun, suffix: str = "") -> Path:
        """Returns the path of a file beside the run folders, such as logs/001-seed=1.log."""
        return self.journal.folder / kind / f"{run.name}{suffix}"

    def argv(self, run: SweepRun) -> list[str]:
        """Returns the run's command, without its folder."""
        return command.build(self.sweep, run.parameters, self._file("parameters", run, ".json"))

    def _start(self, run: SweepRun) -> None:
        progress = self._progress[run.name] = self._new_progress(run)
        if run.is_stopping:  # The sweep was killed after it had decided to stop the run.
            value = progress.read().value
            self.journal.record("ended", run.name, outcome=STOPPED, value=value, reason="")
            return
        argv = self.argv(run)
        for kind in ("parameters", "logs", "locks"):
            (self.journal.folder / kind).mkdir(exist_ok=True)
        parameters = self._file("parameters", run, ".yaml")
        command.write_parameters(parameters, self._file("parameters", run, ".json"), run.parameters)
        self.journal.record("started", run.name)
        # The same variables as from W&B's agent.
        environment = {
            "WANDB_MODE": "offline",
            **os.environ,
            "WANDB_SWEEP_ID": self.journal.sweep_id,
            "WANDB_RUN_ID": run.run_id,
            "WANDB_SWEEP_PARAM_PATH": str(parameters.absolute()),
        }
        self._workers.start(
            run.name,
            [*argv, f"--workdir={self.journal.folder / run.name}", command.RESUME],
            environment,
            self._file("logs", run, ".log"),
            self._file("locks", run),
        )
        verb = "start" if run.starts == 1 else "resume"
        self._view.event(f"{verb} {run.number}/{self._total}: {command.as_typed(argv)}")

    def _poll(self) -> None:
        """Reads the progress of running runs, terminates early, and kills what ignores SIGTERM."""
        for name in self._workers.running:
            self._progress[name].read()
        if self.sweep.early_terminate:
            histories = {
                name: [self.sweep.metric.cost(value) for value in progress.values]
                for name, progress in self._progress.items()
            }
            running = [name for name in self._workers.running if name not in self._stop_times]
            for name in sorted(self.sweep.early_terminate.runs_to_stop(histories, running)):
                self.journal.record("stopping", name)
                self._stop_times[name] = time.monotonic()
                self._workers.signal(name, signal.SIGTERM)
        for name, stopped in self._stop_times.items():
            if time.monotonic() > stopped + GRACE_SECONDS:
                self._workers.signal(name, signal.SIGKILL)

    def _on_exit(self, run: SweepRun, code: int) -> None:
        """Records how a process ended: as the outcome of its run, or as a failure to retry."""
        self._stop_times.pop(run.name, None)
        progress, metric = self._progress[run.name].read(), self.sweep.metric.name
        value, reason = progress.value, ""
        if code == 0 and value is not None:
            outcome = FINISHED
        elif run.is_stopping:
            outcome = STOPPED
        elif code == errors.DIVERGED:
            outcome, value, reason = DIVERGED, None, self._last_line(run)
        else:
            outcome, value = FAILED, None
            if code == 0:
                reason = f"it ended without a value of {metric}"
            else:
                how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                reason = f"{how}: {self._last_line(run)}"
            # A user's mistake would fail again.
            if code != errors.USER_ERROR and run.failures < self._retries:
                self.journal.record("failing", run.name, reason=reason)
                self._view.event(f"retry {run.name}: {reason}")
                return
        self.journal.record("ended", run.name, outcome=outcome, value=value, reason=reason)
        seconds = time.monotonic() - progress.started
        if outcome == FINISHED:
            self._durations.append(seconds)
        result = reason if value is None else f"{metric} {view.format_value(value)}"
        self._view.event(f"{outcome} {run.name}: {result} ({seconds:.1f} s)")

    def _last_line(self, run: SweepRun) -> str:
        """Returns the last line that a run printed, up to 300 characters."""
        log = self._file("logs", run, ".log")
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        lines = (line for line in reversed(text.split("\n")) if line.strip())
        return next(lines, "it printed nothing")[:300]
