"""Snapshots: the parameters alone at a few steps of a run, to see how its model came about.

Checkpoints are for resuming, and only the newest few stay. Snapshots stay; a resumed run makes
those after its step again, the same ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import run_folder
from checkpoints import file_format, parts
from input_pipeline.text_files import digest
from runtime import cluster


def steps_of(num_steps: int, count: int) -> list[int]:
    """Returns up to `count` steps of a run, the last one and earlier ones spaced by ratio."""
    ratio = num_steps ** (1 / max(count - 1, 1))
    return sorted({max(1, round(num_steps / ratio**i)) for i in range(count)})


class Snapshots:
    """Snapshots of one run folder."""

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / run_folder.SNAPSHOTS
        self._tokenizer = workdir / run_folder.TOKENIZER

    def steps(self) -> list[int]:
        """Returns the steps of all snapshots, oldest first."""
        names = [path.name for path in self._path.iterdir()] if self._path.is_dir() else []
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def save(self, step: int, params: Any, note: Callable[[str], None]) -> None:
        """Writes the parameters of `step`; where that fails, says so by `note`."""
        own = parts.fetch(params)
        metadata = {"step": step, "tokenizer": digest([self._tokenizer])}
        try:
            file_format.write(self._path / f"{step}", {"params": own}, metadata)
        except OSError as error:
            note(f"The snapshot of step {step} was not saved ({error}); training goes on.")

    def read(self, step: int, like: Any) -> Any:
        """Returns the parameters of `step`, with the shapes, types and sharding of `like`.

        Raises file_format.Damaged, or UserError if they do not fit `like`.
        """
        return file_format.read(self._path / f"{step}", "params", like)

    def remove_after(self, step: int) -> None:
        """Removes the snapshots of later steps, which a run resumed from `step` makes again."""
        for later in self.steps():
            if later > step and cluster.is_first():
                file_format.remove(self._path / f"{later}")
