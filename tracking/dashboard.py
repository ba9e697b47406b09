"""W&B's terminal dashboard of several runs: `python -m tracking.dashboard runs/ladder`.

`wandb leet` lists the runs of one folder by the names of their folders, which are times and ids. So
this opens a folder of links that are named after the runs.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from runtime import errors

# Where offline runs are below a folder: of one run, of several, of several sweeps.
PATTERNS = tuple(f"{depth}wandb/offline-run-*" for depth in ("", "*/", "*/*/"))


def main(*folders: str) -> None:
    found = offline_runs([Path(folder) for folder in folders])
    if not found:
        raise errors.UserError(
            f"no offline W&B run in {', '.join(folders) or 'no folder'}: name a folder of runs"
        )
    with tempfile.TemporaryDirectory(prefix="dashboard-") as links:
        for name, path in found.items():
            Path(links, name).symlink_to(path.resolve())
        wandb = Path(sys.executable).with_name("wandb")
        code = subprocess.run([wandb, "leet", links]).returncode
    sys.exit(code)


def offline_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Returns the folders of W&B's offline runs, by names such as run-gpt2.

    A run that was resumed has several, the second of them run-gpt2-2.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for pattern in PATTERNS:
            for path in sorted(folder.glob(pattern)):
                run = path.parents[1]
                own = os.path.relpath(run, folder) if run != folder else run.resolve().name
                first = f"run-{re.sub('[^A-Za-z0-9_.=-]', '_', own)}"
                names = (first if part == 1 else f"{first}-{part}" for part in count(1))
                found[next(name for name in names if name not in found)] = path
    return found


if __name__ == "__main__":
    errors.run_command(main, positional=True)
