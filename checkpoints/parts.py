"""The part of a checkpoint that each of several processes writes.

Whole tensors are dealt out by size, so that no process needs memory for the whole state.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import run_folder
from runtime import cluster, devices


def fetch(tree: Any) -> Any:
    """Returns copies of the arrays that this process writes, as NumPy arrays; None for the others.

    All processes have to call this. They gather one array after the other, for the devices may not
    have room for all.
    """
    if cluster.count() == 1:
        return jax.tree.map(lambda leaf: np.array(leaf, copy=True), jax.device_get(tree))
    leaves, structure = jax.tree.flatten(tree)
    owners = deal([leaf.nbytes for leaf in leaves], cluster.count())

    def gathered(leaf: jax.Array, owner: int) -> np.ndarray | None:
        if not leaf.is_fully_replicated:
            assert isinstance(leaf.sharding, NamedSharding)
            leaf = devices.place(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))
            leaf.block_until_ready()  # Else the copies of many arrays would be in memory at once.
        return np.array(leaf.addressable_data(0), copy=True) if owner == cluster.index() else None

    return jax.tree.unflatten(structure, map(gathered, leaves, owners))


def deal(sizes: list[int], count: int) -> list[int]:
    """Returns a process for each size: the largest first, each to the process with the least."""
    owners, loads = [0] * len(sizes), [0] * count
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += sizes[place]
    return owners


def name(tree: str, index: int, count: int) -> str:
    """Returns the name of the part of a tree that one of `count` processes writes."""
    return tree if count == 1 else f"{tree}-{index}-of-{count}"


def names(tree: str, files: Mapping[str, Any]) -> list[str]:
    """Returns the names of all parts of a tree, given those of a checkpoint's files."""
    count = sum(bool(re.fullmatch(rf"{tree}-\d+-of-\d+", file)) for file in files)
    return [name(tree, index, count) for index in range(count)] or [tree]


def write_digests(folder: Path, files: dict[str, Any]) -> None:
    """Writes the sizes and digests of this process's files, for process 0."""
    run_folder.write_json(_digests(folder, cluster.index()), files)


def read_digests(folder: Path) -> dict[str, Any]:
    """Returns the sizes and digests of all processes' files, and removes where they were written.

    Raises OSError if a process has not written them.
    """
    files: dict[str, Any] = {}
    for index in range(cluster.count()):
        path = _digests(folder, index)
        if not path.exists():
            raise OSError(f"process {index} has not written its part")
        files |= run_folder.read_json(path)
        path.unlink()
    return files


def _digests(folder: Path, index: int) -> Path:
    return folder / f"{index}.json"
