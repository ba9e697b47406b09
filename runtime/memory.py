"""Free memory of a device, against which a run is checked before it begins."""

from pathlib import Path

import jax

# Of the container's control group (version 2), if this process is in one with a limit.
CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: jax.Device) -> int | None:
    """Returns the bytes that this process can still take on a device; None if unknown."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
    known = [free for free in (_of_system(), _of_container()) if free is not None]
    return min(known, default=None)


def _of_system() -> int | None:
    try:
        return 1024 * _fields(Path("/proc/meminfo"))["MemAvailable:"]
    except (OSError, ValueError, KeyError):
        return None  # Not Linux.


def _of_container() -> int | None:
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        # Pages of files are dropped when memory is short.
        return limit - used + _fields(CGROUP / "memory.stat")["inactive_file"]
    except (OSError, ValueError, KeyError):
        return None  # No control group, or one without a limit: "max".


def _fields(path: Path) -> dict[str, int]:
    """Returns the lines `name number` of a file."""
    return {
        words[0]: int(words[1]) for line in path.read_text().splitlines() if (words := line.split())
    }
