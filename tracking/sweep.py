"""The sweep that a run belongs to, from environment variables.

`wandb agent` and sweeps/run.py set WANDB_SWEEP_ID, WANDB_RUN_ID and WANDB_SWEEP_PARAM_PATH: the
sweep, the run, and a YAML file of the run's parameters, {name: {value: ...}}. Training does not
depend on them; they decide a run's name, its default folder and what a report compares it by.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import default
from runtime.errors import UserError


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep. `parameters` has flag names as keys: {"config.seed": 1}."""

    sweep_id: str
    run_id: str
    parameters: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The default workdir: the same when the sweep hands out the same run again."""
        return Path("runs") / f"sweep-{self.sweep_id}" / self.run_id

    @property
    def name(self) -> str:
        """The run's display name, from its parameters."""
        return run_name(self.parameters) or self.run_id

    def as_json(self) -> dict:
        """Returns the content of the run folder's sweep.json."""
        return {"sweep_id": self.sweep_id, "parameters": self.parameters}


def current() -> SweepRun | None:
    """Returns the sweep run of this process, if any. Raises UserError for a bad parameter file."""
    sweep_id = os.environ.get("WANDB_SWEEP_ID", "")
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH", "")
    if not (sweep_id and path):
        return None
    import yaml

    try:
        parameters = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        # The agent's file begins with the version of its format, a bare number.
        given = {key: entry["value"] for key, entry in parameters.items() if key != "wandb_version"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        message = f"{type(error).__name__}: {error}"
        raise UserError(f"WANDB_SWEEP_PARAM_PATH={path} can't be read: {message}") from None
    return SweepRun(sweep_id, os.environ.get("WANDB_RUN_ID", ""), given)


def run_name(parameters: dict[str, Any]) -> str:
    """Returns a short name for a run with these flags: `gpt2 learning_rate=0.003 seed=1`."""
    words = [default.name_of(str(parameters["config"]))] if "config" in parameters else []
    for key, value in parameters.items():
        if key != "config":
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            words.append(f"{key.rpartition('.')[-1]}={text}")
    return " ".join(words)
