"""Builds the command line of one run from a sweep file's `command` and the run's parameters."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from sweep_engine.sweep_file import SweepFile

VARIABLE = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")
ENV = "/usr/bin/env"
RESUME = "--config.checkpoint.resume=true"
# Sweep files ask for it because a server's agents need it; here it is left out.
ONLINE = "--config.tracking.wandb_mode=online"


def build(sweep: SweepFile, parameters: Mapping[str, Any], json_file: Path) -> list[str]:
    """Returns the command of one run, `python main.py --config=...`, without its --workdir.

    Raises UserError for an unknown placeholder or an unset environment variable.
    """
    replacements = _replacements(sweep, parameters, json_file)
    argv: list[str] = []
    for word in sweep.command:
        word = VARIABLE.sub(_variable, word)
        if word in replacements:
            argv += replacements[word]
        elif re.fullmatch(r"\$\{\w+\}", word):
            known = ", ".join([*replacements, "${envvar:NAME}"])
            raise UserError(f"command has {word}: expected one of {known}")
        elif word != ONLINE:
            argv.append(word)
    # An unspecific `python`, with or without /usr/bin/env, is the one that runs this.
    rest = argv[1:] if argv[0] == ENV else argv
    is_python = rest[0] in ("python", "python3", sys.executable)
    return [sys.executable, *rest[1:]] if is_python else argv


def write_parameters(yaml_file: Path, json_file: Path, parameters: Mapping[str, Any]) -> None:
    """Writes the files of WANDB_SWEEP_PARAM_PATH, as W&B's agent does, and ${args_json_file}."""
    entries = {"wandb_version": 1, **{name: {"value": value} for name, value in parameters.items()}}
    # JSON is YAML.
    yaml_file.write_text(json.dumps(entries), encoding="utf-8")
    json_file.write_text(json.dumps(dict(parameters)), encoding="utf-8")


def as_typed(argv: list[str]) -> str:
    """Returns the command as a user types it in a shell."""
    words = ["python" if word == sys.executable else word for word in argv]
    return shlex.join([word for word in words if word != RESUME])


def _variable(found: re.Match[str]) -> str:
    if found[1] not in os.environ:
        raise UserError(f"command has {found[0]}: the environment variable {found[1]} is not set")
    return os.environ[found[1]]


def _replacements(
    sweep: SweepFile, parameters: Mapping[str, Any], json_file: Path
) -> dict[str, list[str]]:
    """Returns the words by which W&B's agent replaces each placeholder."""
    words = [f"{name}={value}" for name, value in parameters.items()]
    replacements = {
        "env": [ENV],
        "interpreter": [sys.executable],
        "program": [sweep.program],
        "args": [f"--{word}" for word in words],
        "args_no_hyphens": words,
        "args_no_equals": [
            word for name, value in parameters.items() for word in (f"--{name}", f"{value}")
        ],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in parameters.items()
            if value is not False
        ],
        "args_append_hydra": [f"+{word}" for word in words],
        "args_override_hydra": [f"++{word}" for word in words],
        "args_json": [json.dumps(dict(parameters))],
        "args_json_file": [str(json_file)],
    }
    return {f"${{{name}}}": words for name, words in replacements.items()}
