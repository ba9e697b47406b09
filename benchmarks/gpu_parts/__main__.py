"""Command that runs one part."""

import importlib
import sys
from pathlib import Path

from benchmarks.gpu_parts.finding import Finding


def main(name: str, *options: str) -> None:
    """Runs part `name`; the last of `options` is the file for its figures."""
    module = importlib.import_module(f"benchmarks.gpu_parts.{name.replace('-', '_')}")
    module.run(Finding(Path(options[-1])), "--rehearse" in options)


if __name__ == "__main__":
    main(*sys.argv[1:])
