"""Figures of one part of the GPU check, written to disk as they are measured."""

from pathlib import Path
from typing import Any, NamedTuple

import run_folder
from benchmarks import results


class Finding:
    """Figures of a part and its verdict, in a file that is rewritten with each of them."""

    def __init__(self, path: Path):
        self._path = path
        self.passed: bool | None = None
        self.figures: dict[str, Any] = {}

    def put(self, **figures: Any) -> None:
        """Adds figures, or replaces those of the same names."""
        self.figures |= figures
        self._write()

    def judge(self, passed: bool | None) -> None:
        """Sets the verdict; None for figures that are only recorded."""
        self.passed = passed
        self._write()

    def _write(self) -> None:
        run_folder.write_json(self._path, {"passed": self.passed, "figures": self.figures})


class Found(NamedTuple):
    """Content of such a file."""

    passed: bool | None
    figures: dict[str, Any]


def read(path: Path) -> Found | None:
    """Returns the content of a part's file; None if it is missing or malformed."""
    match results.read(path):
        case {"passed": bool() | None as passed, "figures": dict() as figures}:
            return Found(passed, figures)
    return None
