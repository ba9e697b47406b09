"""Reads run folders as `Run`s, the only input of a comparison.

People and models write the names and texts in a run folder, so whatever is shown in one line goes
through `sanitize`. Numbers go through `number`, which leaves only finite ones. A run whose record
can't be read is named and left out; the others are compared.
"""

import itertools
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import run_folder
from runtime.errors import UserError

# Glob prefixes of run folders below a folder to compare.
DEPTHS = ("", "*/", "*/*/")
NUMBER = re.compile(r"[+-]?(\d{1,15}\.?\d*|\.\d+)([eE][+-]?\d{1,2})?")
# Of what is measured; statistics square it.
LARGEST = 1e100
# Steps are integers that a float holds exactly.
MAX_STEP = 2**53
# Config keys of the text and its tokens.
TASK = ("data.name", "data.path", "data.val_path", "data.field", "data.tokenizer")
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

    @cached_property
    def stage(self) -> int:
        """Stage of the ladder, from 1; 0 for a run outside of the ladder."""
        return int(number(self.config.get("tracking.stage")) or 0)

    @cached_property
    def task(self) -> tuple[Any, ...]:
        """Text and tokenizer: losses of runs with the same ones are comparable."""
        # A config of before a key was there has its neutral value.
        return tuple(self.config.get(key, "") for key in TASK)

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
        return next((number(x[metric]) for x in reversed(self.metrics) if metric in x), None)


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
    config = read_object(folder / run_folder.CONFIG)
    sweep = read_object(folder / run_folder.SWEEP)
    swept = sweep.get("parameters")
    return Run(
        name=name,
        folder=folder,
        config={key: hashable(value) for key, value in run_folder.flatten(config).items()},
        environment=read_object(folder / run_folder.ENVIRONMENT),
        summary=read_object(folder / run_folder.SUMMARY),
        metrics=metrics,
        samples=read_lines(folder / run_folder.SAMPLES),
        vocab_size=vocab_size(read_object(folder / run_folder.TOKENIZER)),
        sweep_id=sanitize(sweep.get("sweep_id", "")),
        swept={key: as_parameter(value) for key, value in swept.items()}
        if isinstance(swept, dict)
        else {},
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
            step = line.get("step") if isinstance(line, dict) else None
            if type(step) is not int or not 0 <= step <= MAX_STEP:
                raise ValueError(f"expected an object with a step, 0 or above, not {line!r:.60}")
            lines.append(line)
    # RecursionError: a hostile line nests too deep.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {len(lines) + 1} can't be read: {error}") from None
    return sorted(lines, key=lambda line: line["step"])


def thin(
    records: Sequence[list[dict[str, Any]]], metrics: Sequence[str], most: int
) -> list[list[dict[str, Any]]]:
    """Returns at most `most` lines of each record, or two if that is more.

    The ends of each, and the same steps of all, so that a mean over them is of the same runs at
    each step: those of each metric's extremes in equal parts of the steps, so that no peak is lost.
    """
    if all(len(lines) <= most for lines in records):
        return list(records)
    steps = sorted({line["step"] for lines in records for line in lines})
    num_parts = (most - 2) // (2 * len(metrics))
    part_of = {step: num_parts * place // len(steps) for place, step in enumerate(steps)}
    kept: set[int] = set()
    for metric in metrics if num_parts > 0 else ():
        extremes = [((math.inf, 0), (-math.inf, 0))] * num_parts
        for line in itertools.chain(*records):
            if (value := number(line.get(metric))) is not None:
                here, part = (value, line["step"]), part_of[line["step"]]
                low, high = extremes[part]
                extremes[part] = min(low, here), max(high, here)
        kept |= {step for pair in extremes for value, step in pair if math.isfinite(value)}
    # A damaged record may have a step twice.
    of_step = [{line["step"]: line for line in lines} for lines in records]
    return [
        [lines[step] for step in sorted(kept & lines.keys() | {min(lines), max(lines)})]
        for lines in of_step
    ]


def hashable(value: Any) -> Any:
    """Returns a JSON value with tuples for lists and text for objects: sets compare runs."""
    if isinstance(value, list):
        return tuple(map(hashable, value))
    return json.dumps(value) if isinstance(value, dict) else value


def as_parameter(value: Any) -> Any:
    """Returns a sweep's value as a finite number, a text, a bool or None.

    A text that is a number becomes one, for YAML reads 1e-4 as text; anything else becomes a text.
    """
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value) if set(value) & set(".eE") else int(value)
    is_plain = value is None or isinstance(value, bool | str) or number(value) is not None
    return value if is_plain else json.dumps(value)


def number(value: Any) -> float | None:
    """Returns `value` if it is a number whose square is finite, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= LARGEST else None


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
    line = " ".join(str(text).split())
    if line.isprintable():
        return line
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char).startswith("C") else char
        for char in line
    )
