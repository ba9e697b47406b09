"""The sweep that a run belongs to, told by variables: by `wandb agent`, and by sweeps/run.py.

WANDB_SWEEP_ID names it, WANDB_RUN_ID the run, and WANDB_SWEEP_PARAM_PATH a YAML file with what the
run was given: {name: {value: ...}}. Training hears nothing of it; only what a run is called, where
it is kept by default, and what a report compares runs by comes from here.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError


@dataclass(frozen=True)
class Membership:
    """A run's place in a sweep. `parameters` has flag names: {"config.seed": 1}."""

    sweep_id: str
    run_id: str
    parameters: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where the run is kept if nobody says: the same when it is handed out again."""
        return Path("runs") / f"sweep-{self.sweep_id}" / self.run_id

    @property
    def name(self) -> str:
        """What the run is called: by what it was given."""
        return name_of(self.parameters) or self.run_id

    def as_json(self) -> dict:
        """The content of the run folder's sweep.json."""
        return {"sweep_id": self.sweep_id, "parameters": self.parameters}


def current() -> Membership | None:
    """The place of this process's run in a sweep; None if it is in none.

    Raises UserError if the file of parameters can't be read.
    """
    sweep_id = os.environ.get("WANDB_SWEEP_ID", "")
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH", "")
    if not (sweep_id and path):
        return None
    import yaml

    try:
        parameters = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        # The agent's file opens with the version of its format, as a bare number.
        given = {key: entry["value"] for key, entry in parameters.items() if key != "wandb_version"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"WANDB_SWEEP_PARAM_PATH={path} can't be read: {message}") from None
    return Membership(sweep_id, os.environ.get("WANDB_RUN_ID", ""), given)


def name_of(parameters: dict[str, Any]) -> str:
    """A short name for a run by the flags it was given: `gpt2 learning_rate=0.003 seed=1`."""
    experiment = str(parameters.get("config", ""))
    words = [f"{short(key)}={text_of(parameters[key])}" for key in parameters if key != "config"]
    if experiment:
        path, _, preset = experiment.partition(":")
        words.insert(0, Path(path).stem + (f":{preset}" if preset else ""))
    return " ".join(words)


def short(key: str) -> str:
    """A flag's name without its section: learning_rate for config.optimizer.learning_rate."""
    return key.rpartition(".")[-1]


def text_of(value: Any) -> str:
    """A value as it stands in a name, numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
