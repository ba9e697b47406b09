"""Groups of runs that differ only in the seed, named after what their runs share."""

import json
from collections.abc import Sequence
from typing import Any

from experiments import default
from reporting.runs import Run, group_by, sanitize

SEED = "config.seed"
# Config groups that do not change what a run computes.
BOOKKEEPING = ("tracking.", "checkpoint.")


def group_seeds(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Groups runs that differ only in the seed, under a label."""

    def without_seed(run: Run) -> str:
        kept = {key: x for key, x in run.config.items() if not key.startswith(BOOKKEEPING)}
        return json.dumps({**kept, "seed": None}, sort_keys=True)

    differing = _differing(runs)
    groups: dict[str, list[Run]] = {}
    for group in group_by(runs, without_seed).values():
        label = group[0].name
        if group[1:]:
            kind = "seeds" if len({run.config.get("seed") for run in group}) > 1 else "runs"
            shared = _shared(group[0], differing)
            label = f"{shared} ({len(group)} {kind})"
            if label in groups:
                label = f"{shared} ({len(group)} {kind}, {group[0].name} the first)"
        groups[label] = group
    return groups


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """Returns the label of each run's group of seeds, by the run's name."""
    return {run.name: label for label, group in group_seeds(runs).items() for run in group}


def _differing(runs: Sequence[Run]) -> set[str]:
    """Returns the names of the flags that differ between runs."""
    flags = [_flags(run) for run in runs]
    names = {name for of_run in flags for name in of_run}
    return {name for name in names if len({str(of_run.get(name)) for of_run in flags}) > 1}


def _shared(run: Run, differing: set[str]) -> str:
    """Returns those of a run's flags that differ between runs; else its experiment."""
    flags = _flags(run)
    words = [
        _experiment(given) if key == "config" else f"{key.rpartition('.')[-1]}={given}"
        for key, given in flags.items()
        if key in differing
    ]
    words = words or [_experiment(flags.get("config") or run.config.get("model.name", "?"))]
    return sanitize(", ".join(words))


def _flags(run: Run) -> dict[str, Any]:
    """Returns the flags that a sweep, or the command line, gave a run to compute."""
    command = run.environment.get("command")
    words = command if isinstance(command, list) else []
    parts = [str(word).removeprefix("--").partition("=") for word in words]
    flags = run.swept or {key: given for key, equals, given in parts if equals}
    idle = tuple(f"config.{group}" for group in BOOKKEEPING)
    return {
        key: x
        for key, x in flags.items()
        if key not in (SEED, "workdir") and not key.startswith(idle)
    }


def _experiment(given: Any) -> str:
    return default.name_of(str(given))


def text(run: Run, name: str) -> str:
    """Returns a parameter's value as one line of text."""
    return sanitize(value(run, name))


def value(run: Run, name: str) -> Any:
    """Returns a parameter's value; an experiment's name comes without its folder."""
    given = run.swept.get(name, "–")
    return _experiment(given) if name == "config" else given


def label(name: str) -> str:
    """Returns a parameter's short name: optimizer.learning_rate, or experiment for `config`."""
    return "experiment" if name == "config" else sanitize(name.removeprefix("config."))
