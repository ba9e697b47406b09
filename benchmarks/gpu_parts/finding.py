"""Figures of one part of the GPU check, on the disk as soon as they are known."""

from pathlib import Path
from typing import Any

from tracking import run_folder


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
        content = {"passed": self.passed, "figures": self.figures}
        run_folder.write_json(self._path, run_folder.finite(content))


def read(path: Path) -> tuple[bool | None, dict[str, Any]]:
    """Returns the verdict and the figures in such a file; None and {} if there is no such file."""
    try:
        match run_folder.read_json(path):
            case {"passed": bool() | None as passed, "figures": dict() as figures}:
                return passed, figures
    except run_folder.UserError:
        pass
    return None, {}
