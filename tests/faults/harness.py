"""Kills real training runs at random moments, resumes each, and compares with one that was not.

    python -m tests.faults.harness --kills=200 --seed=1

A lap is a run in a new folder, killed again and again until it ends. Then its parameters, its
optimizer's state, its metrics and its samples are to be those of the uninterrupted run, bit for
bit, and every line that stood in its record at any kill is to stand there still.
"""

import argparse
import itertools
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import run_folder
from sweep_engine.workers import KILLED, Workers
from tests.command import OF_A_COMMAND, ROOT

# What a clock measures differs between two runs; nothing else may.
CLOCK = ("seconds", "train/tokens_per_second")
STAGES = ("gpt2", "bigram", "transformer_decoder", "self_attention", "multi_head_attention")
FLAGS = (
    "--config.train.num_steps=60",
    "--config.train.steps_per_dispatch=2",
    "--config.train.log_every_steps=2",
    "--config.train.grad_accumulation_steps=2",
    "--config.eval.every_steps=12",
    "--config.sample.every_steps=20",
    "--config.checkpoint.every_steps=3",
    "--config.checkpoint.resume=true",
    "--config.tracking.wandb_mode=disabled",
)
# The phases that a run marks: see runtime/phases.py. Kills fall on files and on these in turn.
PHASES = ("compile", "train", "evaluate", "save", "log")
ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # Or the run would start itself anew.
    "PYTHONPATH": str(ROOT),
}
MOMENTS = ("save", "file", "train", "file", "evaluate", "file", "log", "file", "compile")


class Harness:
    """Runs of one seed, below one folder."""

    def __init__(self, folder: Path, seed: int, stages: Sequence[str] = STAGES) -> None:
        self.folder = folder
        self.stages = stages
        self.draw = random.Random(seed)
        self.workers = Workers(1, ["train", "safetensors.numpy"])
        self.killed: Counter[str] = Counter()
        self.laps = 0
        self.moments = itertools.cycle(MOMENTS)
        self.references: dict[str, dict] = {}
        self.phases = set(PHASES)  # Those that have to be hit.

    def run(self, kills: int) -> None:
        """Laps until there were so many kills, some in each phase; the last one is let end."""
        while not self.is_enough(kills):
            stage = self.stages[self.laps % len(self.stages)]
            if stage not in self.references:
                self.references[stage] = self.reference(stage)
            self.lap(stage, kills)
            self.laps += 1
            print(self.report(), flush=True)

    def is_enough(self, kills: int) -> bool:
        """Returns True after so many kills, if each phase that a run marks has been hit."""
        return self.killed.total() >= kills and self.phases <= set(self.killed)

    def close(self) -> None:
        self.workers.close()

    def reference(self, stage: str) -> dict:
        """Returns the file operations and phases of an uninterrupted run, kept in <stage>."""
        code, output = self.train(stage, self.folder / stage, {})
        assert code == 0, output
        return totals(output)

    def lap(self, stage: str, kills: int) -> None:
        """One run, killed until it ends, and compared."""
        workdir = self.folder / f"{stage}-{self.laps}"
        acknowledged: list[dict] = []
        for _ in range(1000):
            moment = {} if self.is_enough(kills) else self.moment(self.references[stage])
            code, output = self.train(stage, workdir, moment)
            acknowledged += lines(workdir, run_folder.METRICS)
            if code == 0:
                return self.compare(self.folder / stage, workdir, acknowledged)
            assert code == self.code(moment), f"exit code {code}, at {moment}: {output}"
            phase = re.search(r"^KILLED ([^:]*): (.*)$", output, re.MULTILINE)
            self.killed[phase[1]] += 1
        raise AssertionError(f"{workdir} never ended")

    def code(self, moment: dict) -> int:
        """Returns the exit code of a run that was stopped at `moment`."""
        return KILLED

    def moment(self, totals: dict) -> dict:
        """Returns a moment within the first half of a run, for what is left of one may be short.

        Half of the kills in a phase fall on its entry, and are in it however short it is.
        """
        kind, share = next(self.moments), self.draw.random() / 2
        if kind == "file":
            return {"file": 1 + int(totals["files"] * share)}
        entries, seconds = totals["phases"][kind]
        later = self.draw.choice([0.0, self.draw.random()])
        return {
            "phase": kind,
            "entry": 1 + int(entries * share),
            "seconds": later * seconds / entries,
        }

    def train(self, stage: str, workdir: Path, moment: dict) -> tuple[int, str]:
        """Exit code and output of one process."""
        log = self.folder / "log"
        log.write_text("")
        argv = victim(moment, stage, workdir)
        self.workers.start("run", argv, {**os.environ, **ENVIRONMENT}, log, self.folder / "lock")
        until = time.monotonic() + OF_A_COMMAND
        while not (ended := self.workers.wait(1)):
            assert time.monotonic() < until, "the run hangs"
        return ended[0][1], log.read_text(errors="replace")

    def compare(self, whole: Path, resumed: Path, acknowledged: list[dict]) -> None:
        """Raises AssertionError if anything but the clock tells two runs apart."""
        files = [{path.name for path in saved(folder)} for folder in (whole, resumed)]
        assert files[0] == files[1]
        for one, other in zip(saved(whole), saved(resumed), strict=True):
            tensors = load_file(one), load_file(other)
            assert tensors[0].keys() == tensors[1].keys()
            for key in tensors[0]:
                np.testing.assert_array_equal(tensors[0][key], tensors[1][key])
        for name in (run_folder.METRICS, run_folder.SAMPLES):
            assert lines(whole, name) == lines(resumed, name)
        record = lines(resumed, run_folder.METRICS)
        for line in acknowledged:
            assert line in record, f"lost: {line}"
        assert run_folder.read_json(resumed / run_folder.SUMMARY)["status"] == "done"
        best = run_folder.read_json(whole / run_folder.SUMMARY)["best/step"]
        assert run_folder.read_json(resumed / run_folder.SUMMARY)["best/step"] == best
        left = [path.name for path in resumed.rglob("*") if path.name.startswith(".")]
        assert left == [run_folder.LOCK], left

    def report(self) -> str:
        """The kills by what they fell on."""
        phases = ", ".join(f"{count} in {phase}" for phase, count in self.killed.most_common())
        return f"{self.killed.total()} kills ({phases}), {self.laps} runs, 0 losses"


def saved(workdir: Path) -> list[Path]:
    """Returns the files of the last checkpoint's tensors."""
    return sorted((workdir / "checkpoints/60").glob("*.safetensors"))


def lines(workdir: Path, name: str) -> list[dict]:
    """The lines of a record, without what a clock measured."""
    return [
        {key: value for key, value in line.items() if key not in CLOCK}
        for line in run_folder.read_lines(workdir / name)
    ]


def victim(moment: dict, stage: str, workdir: Path) -> list[str]:
    """Returns the command of a run that ends at `moment`."""
    script = str(ROOT / "tests/faults/victim.py")
    flags = [f"--config=experiments/{stage}.py:smoke", f"--workdir={workdir}", *FLAGS]
    return [sys.executable, script, json.dumps(moment), str(ROOT / "main.py"), *flags]


def totals(output: str) -> dict:
    """Returns the counts of an uninterrupted run."""
    return json.loads(re.search(r"^VICTIM (.*)$", output, re.MULTILINE)[1])


def main(kind: type[Harness] = Harness) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        harness = kind(Path(folder), arguments.seed)
        started = time.monotonic()
        try:
            harness.run(arguments.kills)
        finally:
            harness.close()
        seconds = time.monotonic() - started
        print(f"seed {arguments.seed}: {harness.report()}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
