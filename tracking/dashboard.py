"""W&B's terminal dashboard of several runs: `python -m tracking.dashboard runs/ladder`.

`wandb leet` shows one folder of runs, named after times and ids, and a run's file must be named
after the folder's id. So this opens a folder of links in which the ids are the names of the runs,
with the losses of the first ones in sight.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from runtime import errors

# Files of offline runs below a folder: of one run, of several, of several sweeps.
PATTERNS = tuple(f"{depth}wandb/offline-run-*/run-*.wandb" for depth in ("", "*/", "*/*/"))
MAX_SELECTED = 10  # As many runs as there are colors.


def main(*folders: str) -> None:
    found = offline_runs([Path(folder) for folder in folders])
    if not found:
        raise errors.UserError(
            f"no offline W&B run in {', '.join(folders) or 'no folder'}: name a folder of runs"
        )
    with tempfile.TemporaryDirectory(prefix="dashboard-") as links:
        link(found, Path(links))
        wandb = Path(sys.executable).with_name("wandb")
        code = subprocess.run([wandb, "leet", links]).returncode
    sys.exit(code)


def offline_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Returns the files of W&B's offline runs, by the names of their runs.

    A run that was resumed has several, the second of them gpt2-2.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for pattern in PATTERNS:
            for path in sorted(folder.glob(pattern)):
                run = path.parents[2]
                own = os.path.relpath(run, folder) if run != folder else run.resolve().name
                first = re.sub("[^A-Za-z0-9_.=-]", "_", own)
                names = (first if part == 1 else f"{first}-{part}" for part in count(1))
                found[next(name for name in names if name not in found)] = path
    return found


def link(found: dict[str, Path], folder: Path) -> None:
    """Links the files into a folder for `wandb leet`, and chooses what it shows first."""
    shown = []
    for name, path in found.items():
        started = path.parent.name.removeprefix("offline-run-").partition("-")[0]
        run = folder / f"run-{started}-{name}"
        run.mkdir()
        (run / f"run-{name}.wandb").symlink_to(path.resolve())
        shown.append(run.name)
    first = {"selected_runs": shown[:MAX_SELECTED], "metrics_filter": {"query": "loss"}}
    (folder / ".wandb-leet.json").write_text(json.dumps(first))


if __name__ == "__main__":
    errors.run_command(main, positional=True)
