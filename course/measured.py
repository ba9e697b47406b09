"""Measured numbers for pages, from the files that commands wrote: docs/measured/*.json.

`functions` has the names that a page may use. A file is named without its ending; a name with a
slash is a file elsewhere in the repository, such as "benchmarks/sweep".

A filter is a key of a run and its value. A key may be given by its last part, or without `.name`:
`flops=3e12` is `train.flops`, `model="gpt2"` is `model.name`. `run="gpt2*muon"` selects by the
run's name without number and seed, where an asterisk stands for any characters.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from reporting import statistics
from reporting.statistics import Difference

FOLDER = "docs/measured"
LOSS = "val/loss"
# From here on a table shows a number as a power of ten.
LARGE = 1e6
Run = Mapping[str, Any]


class MeasuredError(Exception):
    """A file, a key, or a run that a page asks for, and that is not there."""


@dataclass(frozen=True)
class File:
    """Content of a file, and its path in the repository."""

    path: str
    content: Any

    def runs(self) -> list[Run]:
        """Returns the runs with the settings that they share, as `report.py --data` wrote them."""
        if not isinstance(self.content, dict) or "runs" not in self.content:
            raise MeasuredError(f"{self.path} has no runs: expected a file of report.py --data")
        return [{**self.content["shared"], **run} for run in self.content["runs"]]


def read(root: Path, name: str) -> File:
    """Reads a file of measured numbers below the repository's `root`."""
    path = f"{name}.json" if "/" in name else f"{FOLDER}/{name}.json"
    try:
        return File(path, json.loads((root / path).read_text(encoding="utf-8")))
    except OSError:
        there = ", ".join(sorted(one.stem for one in (root / path).parent.glob("*.json"))) or "none"
        raise MeasuredError(f"{path} does not exist: expected one of {there}") from None
    except ValueError as error:
        raise MeasuredError(f"{path} is no JSON: {error}") from None


def value(file: File, *keys: str | int) -> Any:
    """Returns what a file has under nested keys; an int is a place in a list."""
    found, seen = file.content, ""
    for key in keys:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            has = f": expected one of {', '.join(found)}" if isinstance(found, dict) else ""
            raise MeasuredError(f"{file.path}{seen} has no key {key!r}{has}") from None
        seen += f"[{key!r}]"
    return found


def label(run: Run) -> str:
    """Returns a run's name without its number in the sweep and without its seed."""
    return re.sub(r"^\d+-|,?seed=\d+(?=,|$)", "", run["name"])


def full_key(file: File, run: Run, key: str) -> str:
    """Returns the key of a run that a page gives in full, by its last part, or without .name."""
    if key in run:
        return key
    short = [one for one in run if one in (f"{key}.name",) or one.rpartition(".")[2] == key]
    if len(short) != 1:
        which = f"several keys {key!r}: {', '.join(short)}" if short else f"no key {key!r}"
        raise MeasuredError(f"{file.path} has {which}: expected one of {', '.join(sorted(run))}")
    return short[0]


def select(file: File, where: Mapping[str, Any]) -> dict[str, list[Run]]:
    """Returns the runs that pass the filters, by label, in the order of the file."""
    runs, pattern = file.runs(), where.get("run", "*")
    keys = {full_key(file, runs[0], key): wanted for key, wanted in where.items() if key != "run"}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        matches = all(run.get(key) == wanted for key, wanted in keys.items())
        if matches and fnmatchcase(label(run), pattern):
            groups.setdefault(label(run), []).append(run)
    if not groups:
        asked = ", ".join(f"{key}={wanted!r}" for key, wanted in where.items())
        there = ", ".join(dict.fromkeys(map(label, runs)))
        raise MeasuredError(f"{file.path} has no run with {asked}: its runs are {there}")
    for name, group in groups.items():
        if len({run["seed"] for run in group}) < len(group):
            raise MeasuredError(f"{file.path}: several runs {name!r} have one seed: add a filter")
    return groups


def group(file: File, where: Mapping[str, Any]) -> list[Run]:
    """Returns the runs that pass the filters, which differ in the seed alone."""
    groups = select(file, where)
    if len(groups) > 1:
        raise MeasuredError(
            f"{file.path}: the filter leaves {len(groups)} groups of runs, expected one: "
            f"add a key, or one of run={', '.join(map(repr, groups))}"
        )
    (found,) = groups.values()
    return found


def values(file: File, metric: str, runs: Sequence[Run]) -> list[float]:
    """Returns a number of each run."""
    key = full_key(file, runs[0], metric)
    found = [run[key] for run in runs]
    if not all(isinstance(one, int | float) for one in found):
        raise MeasuredError(f"{file.path}: {key} of {label(runs[0])} is no number: {found}")
    return found


def mean(file: File, metric: str = LOSS, **where: Any) -> float:
    """Returns the mean of a number over the seeds of a group of runs."""
    return fmean(values(file, metric, group(file, where)))


def loss(file: File, digits: int = 3, **where: Any) -> str:
    """Returns the mean validation loss of a group of runs as text."""
    return number(mean(file, **where), digits)


def spread(file: File, metric: str = LOSS, **where: Any) -> float:
    """Returns the highest minus the lowest value over the seeds of a group of runs."""
    found = values(file, metric, group(file, where))
    return max(found) - min(found)


def seeds(file: File, **where: Any) -> int:
    """Returns the number of seeds of a group of runs."""
    return len(group(file, where))


def difference(
    file: File, one: str, other: str, among: str = "", metric: str = LOSS, **where: Any
) -> Difference:
    """Compares the group of runs `one` with `other` as the report does; both are patterns of names.

    The pair alone is tested by Welch's t-test. With `among`, a pattern of several groups, each of
    them is compared with `other` by Dunnett's test, whose verdict holds for all of them together.
    """
    runs = {name: group(file, {**where, "run": name}) for name in (one, other)}
    names = [label(runs[name][0]) for name in (one, other)]
    family = select(file, {**where, "run": among}) if among else {}
    tested = {name: values(file, metric, found) for name, found in family.items()}
    tested |= {label(found[0]): values(file, metric, found) for found in runs.values()}
    for each in _tested(tuple((name, *found) for name, found in tested.items()), names[1]):
        if [each.one, each.other] == names:
            return each
    raise MeasuredError(f"{file.path}: {one!r} or {other!r} has one seed: no difference is tested")


@cache
def _tested(groups: tuple[tuple[Any, ...], ...], baseline: str) -> list[Difference]:
    """Returns the report's differences, computed once: Dunnett's test of many groups is slow."""
    return statistics.differences({name: found for name, *found in groups}, baseline)


def finding(file: File, *words: str) -> str:
    """Returns the one sentence of the report's findings that contains all `words`."""
    found = [one for one in value(file, "findings") if all(word in one for word in words)]
    if len(found) != 1:
        raise MeasuredError(f"{file.path} has {len(found)} findings with {words}: expected one")
    return found[0]


def machines(file: File) -> str:
    """Names the processors, or devices, on which the runs of a file were made."""
    names = [f"{one['device']}, {one['num_cpus']} cores" for one in value(file, "machines")]
    return "; ".join(dict.fromkeys(names))


def table(file: File, columns: Mapping[str, str], digits: int = 3, **where: Any) -> str:
    """Returns a markdown table with a row for each group of runs.

    `columns` has the key of a run for each header; "run" is the group's label. Numbers that differ
    between seeds are means.
    """
    rows = []
    for name, runs in select(file, where).items():
        keys = [key if key == "run" else full_key(file, runs[0], key) for key in columns.values()]
        rows.append([name if key == "run" else _cell(file, key, runs, digits) for key in keys])
    return markdown(list(columns), rows)


def _cell(file: File, key: str, runs: Sequence[Run], digits: int) -> str:
    if all(type(run[key]) is float for run in runs):
        found = fmean(values(file, key, runs))
        return compute(found) if found >= LARGE else number(found, digits)
    if len({run[key] for run in runs}) > 1:
        raise MeasuredError(f"{file.path}: {key} differs between the seeds of {label(runs[0])}")
    return count(runs[0][key]) if type(runs[0][key]) is int else f"{runs[0][key]}"


def markdown(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(shown, line))} |" for line in lines)


def number(x: float, digits: int = 3) -> str:
    """Formats a number with a fixed number of digits after the point."""
    return f"{x:.{digits}f}"


def signed(x: float, digits: int = 3) -> str:
    """Formats a number with its sign."""
    return f"{x:+.{digits}f}"


def count(x: float) -> str:
    """Formats a whole number with commas between thousands."""
    return f"{x:,.0f}"


def compute(x: float) -> str:
    """Formats FLOPs or tokens as a power of ten: 3e12."""
    return re.sub(r"(\.0)?e\+?0*", "e", f"{x:.1e}")


def told(found: Difference, digits: int = 3) -> str:
    """Describes a difference: distance, interval and verdict of the test."""
    away = found if found.mean >= 0 else -found
    low, high = number(away.low, digits), number(away.high, digits)
    return (
        f"{number(away.mean, digits)} {'above' if found.mean >= 0 else 'below'} (95 % interval "
        f"{low} to {high}; {'' if found.significant else 'not '}statistically significant by "
        f"{found.test})"
    )


def shown(x: Any) -> Any:
    """Returns what a page shows of a value: a float has three digits."""
    if isinstance(x, Difference):
        return signed(x.mean)
    return number(x) if isinstance(x, float) else x


# `x | number(2)`; in a table, whose columns a bar separates on GitHub, `number(x, 2)`.
FILTERS: dict[str, Callable[..., str]] = {
    "number": number,
    "signed": signed,
    "count": count,
    "compute": compute,
    "told": told,
}


def functions(root: Path) -> dict[str, Callable[..., Any]]:
    """Returns the functions that a page may call; their first argument is the name of a file."""
    opened = cache(partial(read, root))

    def by_name(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda name, *args, **kwargs: function(opened(name), *args, **kwargs)

    of_a_file = (value, mean, loss, spread, seeds, difference, finding, machines, table)
    return {
        **{function.__name__: by_name(function) for function in of_a_file},
        "markdown": markdown,
        **FILTERS,
    }
