"""Checks of flags, made before anything is measured."""

import os
from collections.abc import Iterable
from pathlib import Path

from runtime.errors import UserError


def check_choices(flag: str, values: list[str], known: Iterable[str]) -> None:
    """Raises UserError if a list flag is empty or has a value that is not among `known`."""
    known = list(known)
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise UserError(f"--{flag}={','.join(unknown)}: expected some of {','.join(known)}")


def check_output(value: str) -> None:
    """Raises UserError unless --output is a .json file in a folder that can be written."""
    output = Path(value)
    if output.suffix != ".json" or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise UserError(f"--output={value}: expected a .json file in a folder that can be written")
