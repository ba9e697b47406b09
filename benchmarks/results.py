"""File of results: a description of the machine, and a row for each workload and precision."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import run_folder
from benchmarks import rounds
from benchmarks.measure import Row
from runtime import process
from runtime.errors import UserError

LIBRARIES = ("jax", "flax", "numpy", "torch", "transformers")
# May differ between the runs that share a file: the system's name contains its build.
MAY_DIFFER = ("peak_gflops", "system")
# A row replaces the one that is equal in these.
KEYS = ("work", "precision")


def machine() -> dict:
    """Returns the host, the libraries' versions, and the measured peak GFLOP/s of both sides."""
    ours, theirs = (rounds.ask("benchmarks.peak", library) for library in ("jax", "torch"))
    return {
        **host(),
        "versions": versions(*LIBRARIES),
        "peak_gflops": {"ours": ours, "peer": theirs},
    }


def host() -> dict[str, str | int | None]:
    """Returns the processor, the system and Python's version."""
    return {
        "cpu": process.processor_name(),
        "instructions": " ".join(process.instruction_sets()),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        "python": platform.python_version(),
    }


def versions(*libraries: str) -> dict[str, str | None]:
    """Returns the versions of libraries; None for one that is not installed."""
    installed: dict[str, str | None] = dict.fromkeys(libraries)
    for library in libraries:
        try:
            installed[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return installed


class Results:
    """Rows of a file, which is rewritten as rows are added."""

    def __init__(self, path: Path, machine: dict):
        self.path = path
        self.machine = machine
        self.rows: list[Row] = []
        self.note = f"{path} is new"
        before = read(path)
        known = (before or {}).get("machine", {})
        if "peak_gflops" in known and is_same_machine(known, machine):
            self.rows = before["rows"]
            self.note = f"{path} keeps its other rows: same machine, same versions"
            for side, peaks in known["peak_gflops"].items():
                ours = self.machine["peak_gflops"][side]
                for precision, peak in peaks.items():
                    ours[precision] = max(peak, ours.get(precision, 0.0))
        elif before is not None:
            self.note = f"{path} starts anew: its rows are from another machine or other versions"

    def put(self, rows: list[Row]) -> None:
        """Replaces rows of the same work and precision, and writes the file."""
        for row in rows:
            self.rows = replaced(self.rows, row, KEYS)
        for row in self.rows:
            if "flops" in row:
                row["utilisation"] = utilisation(row, self.machine["peak_gflops"])
        run_folder.write_json(self.path, {"machine": self.machine, "rows": self.rows})


def replaced(rows: Sequence[Row], row: Row, keys: Sequence[str]) -> list[Row]:
    """Returns `rows` with `row` in place of the one that is equal in `keys`, or else at the end."""
    is_other = [any(one[key] != row[key] for key in keys) for one in rows]
    kept = [one if other else row for one, other in zip(rows, is_other, strict=True)]
    return [*kept, row] if all(is_other) else kept


def read(path: Path) -> dict | None:
    """Returns the content of a file; None if it is missing or can't be read."""
    try:
        return run_folder.read_object(path)
    except UserError:
        return None


def is_same_machine(before: dict, now: dict) -> bool:
    """Returns True if two descriptions are of the same machine with the same libraries."""
    return all(before.get(name) == value for name, value in now.items() if name not in MAY_DIFFER)


def utilisation(row: Row, peak_gflops: dict) -> dict[str, float]:
    """Returns each side's FLOP/s over the machine's peak in the precision of that side."""
    gflop = row["flops"] / 1e9
    shares = {}
    for side, precision in (("ours", row["precision"]), ("peer", row["peer_precision"])):
        peaks = [peaks[precision] for peaks in peak_gflops.values() if precision in peaks]
        shares[side] = gflop / (row[side] / 1e3) / max(peaks)
    return shares
