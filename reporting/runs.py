"""Run folders as `Run`s: everything a comparison knows comes through here.

Names and texts in a run folder are whatever a person or a model wrote, so what is shown in one
line goes through `plain`; numbers go through `number`, which leaves only finite ones.
"""

import math
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import run_folder
from runtime.errors import UserError

# Where, below a folder to compare, its run folders are.
DEPTHS = ("", "*/", "*/*/")


@dataclass(frozen=True)
class Run:
    """What one run left behind. `config` has dotted keys; `vocab_size` is None if unknown.

    A run of a sweep has its id, and under `swept` the flags that the sweep gave it.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    vocab_size: int | None
    sweep_id: str = ""
    swept: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> int:
        """Its rung of the ladder; 0 if it is not on it."""
        return int(number(self.config.get("tracking.stage")) or 0)

    @property
    def status(self) -> str:
        """How it ended, as far as the folder tells."""
        # A process that is killed has no time to say so.
        status = plain(self.summary.get("status", "running"))
        return "running or killed" if status == "running" else status

    def series(self, metric: str) -> list[float | None]:
        """The values of a metric, oldest first; None for one that was not finite."""
        return [number(line[metric]) for line in self.metrics if metric in line]

    def last(self, metric: str) -> float | None:
        """The newest value of a metric; None if there is none or it was not finite."""
        return next(reversed(self.series(metric)), None)


def find_runs(folder: Path) -> list[Path]:
    """The run folders that `folder` is or holds, at most two levels down.

    Raises UserError if there are none.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: expected a run folder, or a folder of run folders")
    found = {config.parent for depth in DEPTHS for config in folder.glob(depth + run_folder.CONFIG)}
    if not found:
        raise UserError(f"{folder} holds no run: no {run_folder.CONFIG} in it or two folders down")
    return sorted(run for run in found if found.isdisjoint(run.parents))


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in `folders`, in the ladder's order, and a line about each that can't be read.

    One run that was killed at birth is no reason to keep the others from being compared. Raises
    UserError for a folder without runs, or if no run at all can be read.
    """
    # A folder that is given twice, or with the folder around it, is one run.
    found = {Path(os.path.abspath(run)): run for folder in folders for run in find_runs(folder)}
    # Names say no more than they must: the path from the last folder that all runs share.
    shared = os.path.commonpath([run.parent for run in found])
    runs, unread = [], []
    for absolute, run in found.items():
        try:
            runs.append(read_run(run, plain(os.path.relpath(absolute, shared))))
        except UserError as error:
            unread.append(plain(error))
    if not runs:
        raise UserError(f"no run can be compared: {unread[0]}")
    return sorted(runs, key=lambda run: (run.stage, run.name)), unread


def read_run(folder: Path, name: str) -> Run:
    """The run in `folder`. Raises UserError if its files are broken or hold no measurement yet."""
    metrics = read_lines(folder / run_folder.METRICS)
    if not metrics:
        raise UserError(f"{folder / run_folder.METRICS} holds no measurement: the run never began")
    tokenizer = read_object(folder / run_folder.TOKENIZER)
    sweep = read_object(folder / run_folder.SWEEP)
    swept = sweep.get("parameters")
    return Run(
        name=name,
        folder=folder,
        config=run_folder.flatten(read_object(folder / run_folder.CONFIG)),
        environment=read_object(folder / run_folder.ENVIRONMENT),
        summary=read_object(folder / run_folder.SUMMARY),
        metrics=metrics,
        samples=read_lines(folder / run_folder.SAMPLES),
        vocab_size=vocab_size(tokenizer),
        sweep_id=plain(sweep.get("sweep_id", "")),
        swept=swept if isinstance(swept, dict) else {},
    )


def vocab_size(tokenizer: dict[str, Any]) -> int | None:
    """How many tokens a tokenizer.json stands for; None for one that is not known here."""
    match tokenizer:
        case {"vocabulary": str(vocabulary)}:
            return len(vocabulary)
        case {"learned": {"model": {"vocab": dict(vocabulary)}}}:
            return len(vocabulary)
        case {"name": ("byte" | "gpt2") as name}:
            return {"byte": 256, "gpt2": 50_257}[name]
    return None


def read_object(path: Path) -> dict:
    """A file's JSON object; an empty one without the file. Raises UserError for anything else."""
    return run_folder.read_object(path) if path.exists() else {}


def read_lines(path: Path) -> list[dict]:
    """The lines of a record, by step. Raises UserError that names the first that is none."""
    lines = []
    try:
        for line in run_folder.read_lines(path):
            if not isinstance(line, dict) or number(line.get("step")) is None:
                raise ValueError("expected an object with a step")
            lines.append(line)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}, line {len(lines) + 1} can't be read: {error}") from None
    return sorted(lines, key=lambda line: line["step"])


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def plain(text: Any) -> str:
    """`text` in one line, with nothing in it that a terminal obeys or that turns text around."""
    return "".join(
        # The categories C*: control and format characters, halves of surrogate pairs.
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char).startswith("C") else char
        for char in " ".join(str(text).split())
    )
