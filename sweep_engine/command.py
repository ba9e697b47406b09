"""The command line of one run, out of a sweep file's `command` and the run's parameters."""

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
# A sweep file says so for the agents of a server; here there is none.
ONLINE = "--config.tracking.wandb_mode=online"


def build(sweep: SweepFile, parameters: Mapping[str, Any], json_file: Path) -> list[str]:
    """What runs one point: `python main.py --config=...`, the run folder apart.

    Raises UserError for a placeholder that is none, or a variable that is not set.
    """
    filled = _placeholders(sweep, parameters, json_file)
    argv: list[str] = []
    for word in sweep.command:
        word = VARIABLE.sub(_variable, word)
        if re.fullmatch(r"\$\{\w+\}", word):
            if word[2:-1] not in filled:
                known = ", ".join(f"${{{name}}}" for name in (*filled, "envvar:NAME"))
                raise UserError(f"command has {word}, which is none of {known}")
            argv += filled[word[2:-1]]
        elif word != ONLINE:
            argv.append(word)
    return _with_this_python(argv)


def write_json_file(path: Path, parameters: Mapping[str, Any]) -> None:
    """What ${args_json_file} names."""
    path.write_text(json.dumps(dict(parameters)), encoding="utf-8")


def shown(argv: list[str]) -> str:
    """The command as a person types it."""
    words = ["python" if word == sys.executable else word for word in argv]
    return shlex.join([word for word in words if word != RESUME])


def _variable(found: re.Match) -> str:
    if found[1] not in os.environ:
        raise UserError(f"command has {found[0]}, and the variable {found[1]} is not set")
    return os.environ[found[1]]


def _placeholders(sweep: SweepFile, parameters: Mapping, json_file: Path) -> dict[str, list[str]]:
    """What W&B's agent puts in the place of each ${name}."""
    words = [f"{name}={value}" for name, value in parameters.items()]
    true_or_text = {
        name: value for name, value in parameters.items() if not isinstance(value, bool) or value
    }
    return {
        "env": [ENV],
        "interpreter": [sys.executable],
        "program": [sweep.program],
        "args": [f"--{word}" for word in words],
        "args_no_hyphens": words,
        "args_no_equals": [
            x for name, value in parameters.items() for x in (f"--{name}", f"{value}")
        ],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in true_or_text.items()
        ],
        "args_append_hydra": [f"+{word}" for word in words],
        "args_override_hydra": [f"++{word}" for word in words],
        "args_json": [json.dumps(dict(parameters))],
        "args_json_file": [str(json_file)],
    }


def _with_this_python(argv: list[str]) -> list[str]:
    """`argv` with the Python that runs the sweep where it names just any."""
    rest = argv[1:] if argv[0] == ENV else argv
    is_python = rest[0] in ("python", "python3", sys.executable)
    return [sys.executable, *rest[1:]] if is_python else argv
