"""Reads run folders as `Run`s, the only input of a comparison.

People and models write the names and texts in a run folder, so whatever is shown in one line goes
through `sanitize`. Numbers go through `number`, which leaves only finite ones.
"""

import math
import os
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import run_folder
from runtime.errors import UserError

# Glob prefixes of run folders below a folder to compare.
DEPTHS = ("", "*/", "*/*/")
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Run:
    """The content of a run folder. `config` has dotted keys; `vocab_size` is None if unknown.

    A run of a sweep has the sweep's id, and in `swept` the flags that the sweep set.
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
        """Stage of the ladder, from 1; 0 for a run outside of the ladder."""
        return int(number(self.config.get("tracking.stage")) or 0)

    @property
    def status(self) -> str:
        """Status in the summary. A killed process can't update it, so "running" is ambiguous."""
        status = sanitize(self.summary.get("status", "running"))
        return "running or killed" if status == "running" else status

    def series(self, metric: str) -> list[float | None]:
        """Returns the values of a metric, oldest first; None stands for one that is not finite."""
        return [number(line[metric]) for line in self.metrics if metric in line]

    def last(self, metric: str) -> float | None:
        """Returns the newest value of a metric; None if there is none or it is not finite."""
        return next(reversed(self.series(metric)), None)


def find_runs(folder: Path) -> list[Path]:
    """Returns the run folders in `folder`: itself, or those at most two levels down.

    Raises UserError if there are none.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: expected a run folder, or a folder of run folders")
    found = {config.parent for depth in DEPTHS for config in folder.glob(depth + run_folder.CONFIG)}
    if not found:
        raise UserError(
            f"{folder} holds no run: expected {run_folder.CONFIG} in it or at most two folders down"
        )
    return sorted(run for run in found if found.isdisjoint(run.parents))


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Returns the runs in `folders`, sorted by stage and name, and a line for each unreadable one.

    Raises UserError for a folder without runs, or if no run can be read.
    """
    # A run that is named twice, or together with a folder around it, counts once.
    found = {Path(os.path.abspath(run)): run for folder in folders for run in find_runs(folder)}
    # Names are paths from the last folder that all runs share.
    shared = os.path.commonpath([run.parent for run in found])
    runs, unread = [], []
    for absolute, run in found.items():
        try:
            runs.append(read_run(run, sanitize(os.path.relpath(absolute, shared))))
        except UserError as error:
            unread.append(sanitize(error))
    if not runs:
        raise UserError(f"no run can be compared: {unread[0]}")
    return sorted(runs, key=lambda run: (run.stage, run.name)), unread


def read_run(folder: Path, name: str) -> Run:
    """Returns the run in `folder`. Raises UserError for broken files or an empty record."""
    metrics = read_lines(folder / run_folder.METRICS)
    if not metrics:
        raise UserError(f"{folder / run_folder.METRICS} holds no measurement: the run never began")
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
        vocab_size=vocab_size(read_object(folder / run_folder.TOKENIZER)),
        sweep_id=sanitize(sweep.get("sweep_id", "")),
        swept=swept if isinstance(swept, dict) else {},
    )


def vocab_size(tokenizer: dict[str, Any]) -> int | None:
    """Returns the vocabulary size of a tokenizer.json; None for an unknown tokenizer."""
    match tokenizer:
        case {"vocabulary": str(vocabulary)}:
            return len(vocabulary)
        case {"learned": {"model": {"vocab": dict(vocabulary)}}}:
            return len(vocabulary)
        case {"name": ("byte" | "gpt2") as name}:
            return {"byte": 256, "gpt2": 50_257}[name]
    return None


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} if there is no file. Raises UserError otherwise."""
    return run_folder.read_object(path) if path.exists() else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a record, sorted by step. Raises UserError that names a broken line."""
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
    """Returns `value` if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def are_numbers(values: Iterable[Any]) -> bool:
    """Returns True if all values are finite numbers."""
    return all(number(value) is not None for value in values)


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Groups items by a key, in the order of each group's first item."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def sanitize(text: Any) -> str:
    """Returns `text` in one line, without control, format and surrogate characters.

    These could steer a terminal or reverse the direction of text.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char).startswith("C") else char
        for char in " ".join(str(text).split())
    )
