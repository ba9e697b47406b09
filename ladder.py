"""The main job: trains the five stages, the last one also for longer, and compares them.

    python ladder.py --workdir=runs/ladder

Stages 2 to 5 get the same training compute, so that neighbours differ by the idea alone, each with
the size and the settings that suit it best (docs/comparison.md). The longest run begins at once on
half of the cores; the others take their turns on the other half. The command leaves finished runs
alone and resumes interrupted ones: the same command continues.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()
    process.set_up_malloc()  # First of all: what was imported would be imported again.


import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from absl import flags

import run_folder
from experiments import comparison, default
from runtime import errors
from sweep_engine import view
from sweep_engine.journal import FINISHED, SweepRun
from sweep_engine.progress import Progress
from sweep_engine.sweep_file import Metric
from sweep_engine.workers import POLL_SECONDS, Workers, visible_gpus
from tracking.console import sample_lines

WORKDIR = flags.DEFINE_string("workdir", "runs/ladder", "Folder of the run folders.")
PRESET = flags.DEFINE_string("preset", "", "Preset of every stage, such as smoke; none: full size.")
WORKERS = flags.DEFINE_integer(
    "workers", None, "Runs at a time. Default: 2, or 1 if there is one core or one GPU.", 1
)

# Of stages 2 to 5, in training FLOPs, and of the last one again.
BUDGET, LARGER_BUDGET = "3e12", "1e13"
OPTIMIZER = "muon"
LAST = default.LADDER[-1]
LONGER = f"{LAST}-{LARGER_BUDGET}"
# The order in which runs start beside each other: the longest first, then stage 1, which has a
# result in seconds, and stage 2 last, so that no long run is left alone with half of the cores.
BESIDE = (LONGER, default.LADDER[0], *default.LADDER[2:], default.LADDER[1])
# Curves need more points than the comparison's protocol has, and a run that is killed a checkpoint.
INTERVALS = (
    "--config.eval.every_steps=0",
    "--config.eval.milestones=true",
    "--config.sample.every_steps=0",
    "--config.sample.milestones=true",
    "--config.checkpoint.every_minutes=0.5",
)
# For look_inside.py, which shows how the models grew.
SNAPSHOTS = "--config.checkpoint.snapshots=12"
METRIC = Metric("val/loss")
ROOT = Path(__file__).parent
# Time for a run to save after it is asked to stop.
GRACE_SECONDS = 20
# Lines of the text that a run wrote last.
SAMPLE_LINES = 2


def main() -> None:
    Ladder(runs(), Path(WORKDIR.value), WORKERS.value or num_workers()).run()
    report = [sys.executable, str(ROOT / "report.py"), WORKDIR.value]
    code = subprocess.run([*report, f"--output={WORKDIR.value}/report.html"]).returncode
    if not code:
        python = shlex.quote(os.path.relpath(sys.executable))
        folder = shlex.quote(WORKDIR.value)
        print(f"look inside the models: {python} look_inside.py {folder}")
        print(f"play with them in a page: {python} playground.py {folder}")
    sys.exit(code)


def num_workers() -> int:
    """Returns how many runs to make at a time: small models leave half of the cores idle."""
    return min(2, len(visible_gpus()) or os.cpu_count() or 1)


def runs() -> dict[str, list[str]]:
    """Returns the flags of each run, by its name."""
    stages = {stage: experiment(stage, BUDGET) for stage in default.LADDER}
    longer = [
        *experiment(LAST, LARGER_BUDGET),
        f"--config.tracking.stage={len(stages) + 1}",
        f"--config.tracking.group={LONGER}",
    ]
    notes = "the same again"
    if not PRESET.value:  # A preset says how long a run is.
        ratio = float(LARGER_BUDGET) / float(BUDGET)
        notes = f"the same, with {ratio:.1f} x the compute"
        longer.append(f"--config.train.flops={LARGER_BUDGET}")
    return {**stages, LONGER: [*longer, f"--config.tracking.notes={notes}"]}


def experiment(stage: str, budget: str) -> list[str]:
    """Returns the flags of a stage's run: the best point for a budget, with the preset's changes.

    The table of bigrams, and a stage that is at its floor before, get less.
    """
    presets = []
    if stage in comparison.STAGES:
        presets.append(f"flops-{comparison.enough(stage, OPTIMIZER, budget)}-{OPTIMIZER}")
    if PRESET.value:
        presets.append(PRESET.value.removeprefix(":"))
    config = f"--config=experiments/{stage}.py" + (":" + "+".join(presets) if presets else "")
    return [config, SNAPSHOTS] if PRESET.value else [config, SNAPSHOTS, *INTERVALS]


@dataclass
class Overview(view.Overview):
    """State of the ladder. `began` is in time.monotonic's seconds."""

    began: float = 0.0

    def seconds_left(self) -> float | None:
        """Returns the seconds that the longest run still needs at its pace; None if unknown."""
        progress = self.running.get(LONGER)
        if progress is None or not progress.step:
            return None
        return (time.monotonic() - self.began) * (progress.num_steps / progress.step - 1)


class Ladder:
    """The runs of the ladder, `num_workers` at a time, each in a folder of its name."""

    def __init__(self, planned: dict[str, list[str]], folder: Path, num_workers: int) -> None:
        self._planned, self._folder, self._num_workers = planned, folder, num_workers
        self._runs = [SweepRun(i, name, "", {}, {}) for i, name in enumerate(planned, start=1)]
        self._waiting = sorted(planned, key=BESIDE.index) if num_workers > 1 else list(planned)
        self._progress = {name: Progress(folder / name, METRIC.name) for name in planned}
        self._began = time.monotonic()

    def run(self) -> None:
        """Returns when all runs have ended.

        Exits, after the others have saved, with a run's line of error and code if it fails. Raises
        UserError for a folder that can't be written or is in use, and KeyboardInterrupt after all
        have saved.
        """
        try:
            for kind in ("logs", "locks"):
                (self._folder / kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.UserError(f"--workdir={self._folder} can't be written: {error}") from None
        with run_folder.lock(self._folder, "runs this ladder"):
            self._run_all()

    def _run_all(self) -> None:
        self._workers, self._view = Workers(self._num_workers, ("train",)), view.open_view()
        try:
            while self._waiting or self._workers.running:
                while self._waiting and self._workers.has_room:
                    self._start(self._waiting.pop(0))
                for name, code in self._workers.wait(POLL_SECONDS):
                    self._on_exit(name, code)
                self._view.show(self._overview())
        except KeyboardInterrupt:
            self._view.event("stopping: run the same command again to resume")
            self._workers.stop(GRACE_SECONDS)
            raise
        finally:
            self._view.close()
            self._workers.close()

    def _overview(self) -> Overview:
        running = {name: self._progress[name].read() for name in self._workers.running}
        total = len(self._runs)
        return Overview(self._runs, running, METRIC, total, self._num_workers, [], self._began)

    def _start(self, name: str) -> None:
        self._progress[name].started = time.monotonic()
        words = [sys.executable, os.path.relpath(ROOT / "main.py"), *self._planned[name]]
        words += [f"--workdir={self._folder / name}", "--config.checkpoint.resume=true"]
        log, lock = self._folder / f"logs/{name}.log", self._folder / f"locks/{name}"
        log.unlink(missing_ok=True)
        self._workers.start(name, words, os.environ, log, lock)
        self._view.event(f"start {name}")

    def _on_exit(self, name: str, code: int) -> None:
        """Shows the result of a run. Exits as it did if it failed, after the others have saved."""
        if code:
            self._workers.stop(GRACE_SECONDS)
            self._view.close()
            log = (self._folder / f"logs/{name}.log").read_text(errors="replace").splitlines()
            print(log[-1] if log else f"error: {name} was killed", file=sys.stderr)
            sys.exit(code if code > 0 else 128 - code)
        summary = run_folder.read_object(self._folder / name / run_folder.SUMMARY)
        (run,) = [run for run in self._runs if run.name == name]
        run.outcome, run.value = FINISHED, summary[METRIC.name]
        result = f"val loss {view.format_value(run.value)}"
        self._view.event(f"finished {name}: {result}, {summary['seconds']:,.1f} s of training")
        samples = list(run_folder.read_lines(self._folder / name / run_folder.SAMPLES))
        for sample in samples[-1:]:
            for line in sample_lines(**sample)[1 : 1 + SAMPLE_LINES]:
                self._view.event(line)


if __name__ == "__main__":
    errors.run_command(main)
