"""The file of results: what the machine is, and a row for each work and precision."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path

from benchmarks import rounds
from benchmarks.measure import Row

LIBRARIES = ("jax", "flax", "numpy", "torch", "transformers")
# What may differ between two parts of one file: the system's name has its build in it.
MAY_DIFFER = ("peak_gflops", "system")


def machine() -> dict:
    """What the times depend on besides the code, and how fast it multiplies matrices."""
    ours, theirs = (rounds.ask("benchmarks.peak", library) for library in ("jax", "torch"))
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {**facts(), "versions": versions, "peak_gflops": {"ours": ours, "peer": theirs}}


def facts() -> dict[str, str | int]:
    """The processor and the system."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        "python": platform.python_version(),
    }


class Results:
    """The rows of a file, into which those of this run are put as they come."""

    def __init__(self, path: Path, machine: dict):
        self.path = path
        self.machine = machine
        self.rows: list[Row] = []
        self.beginning = f"{path} is new"
        before = read(path)
        known = (before or {}).get("machine", {})
        if "peak_gflops" in known and is_same(known, machine):
            self.rows = before["rows"]
            self.beginning = f"{path} keeps its other rows: same machine, same versions"
            for side, peaks in known["peak_gflops"].items():
                ours = self.machine["peak_gflops"][side]
                for precision, peak in peaks.items():
                    ours[precision] = max(peak, ours.get(precision, 0.0))
        elif before is not None:
            self.beginning = f"{path} starts anew: it is of another machine or other versions"

    def put(self, rows: list[Row]) -> None:
        """Replaces rows of the same work and precision, and writes the file."""
        made = {key(row): row for row in rows}
        places = {key(row): place for place, row in enumerate(self.rows)}
        for one, row in made.items():
            if one in places:
                self.rows[places[one]] = row
            else:
                self.rows.append(row)
        for row in self.rows:
            if "flops" in row:
                row["utilisation"] = utilisation(row, self.machine["peak_gflops"])
        write(self.path, {"machine": self.machine, "rows": self.rows})


def write(path: Path, content: dict) -> None:
    """As a whole or not at all: hours may be in it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=2) + "\n")
    new.replace(path)


def read(path: Path) -> dict | None:
    """What the file holds; None if there is none, or none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def is_same(before: dict, now: dict) -> bool:
    """Whether two descriptions are of the same machine with the same libraries."""
    return all(before.get(name) == value for name, value in now.items() if name not in MAY_DIFFER)


def key(row: Row) -> tuple:
    """What there is one row of."""
    return row["work"], row["precision"]


def utilisation(row: Row, peak_gflops: dict) -> dict[str, float]:
    """Achieved FLOP/s over the machine's fastest products of the precision that a side ran in."""
    gflop = row["flops"] / 1e9
    shares = {}
    for side, precision in (("ours", row["precision"]), ("peer", row["peer_precision"])):
        peaks = [peaks[precision] for peaks in peak_gflops.values() if precision in peaks]
        shares[side] = gflop / (row[side] / 1e3) / max(peaks)
    return shares
