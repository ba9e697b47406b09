"""Atomic, checksummed checkpoint directories.

    params.safetensors      the parameters, a tensor each, named by their path in the tree
    opt_state.safetensors   the optimizer's state, likewise
    checkpoint.json         the run's numbers at that step, and the size and sha256 of each file

Writing makes a temporary directory, calls fsync and renames. Reading checks each file's sha256,
then the names, shapes and types against the model's, and only then loads. The format holds only
numbers and names, so no code in a checkpoint can run, and no name in one decides which files open.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import run_folder
from runtime import cluster, devices
from runtime.errors import UserError
from runtime.files import atomic_write, fsync

METADATA = "checkpoint.json"
# NumPy's name: safetensors' name.
DTYPES = {
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
}


class Damaged(Exception):
    """Error of a checkpoint that differs from what was written; the message is one line."""


def write(path: Path, trees: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Writes a checkpoint of NumPy trees and `metadata`, in place of one that is at `path`.

    Raises OSError, and leaves what was there, if writing fails.
    """
    from safetensors.numpy import save

    temporary = path.with_name(f".{path.name}.new")
    try:
        remove(temporary)
        temporary.mkdir(parents=True)
        files = {}
        for name, tree in trees.items():
            leaves = {key: np.asarray(leaf, order="C") for key, leaf in named_leaves(tree).items()}
            content = save(leaves)
            with atomic_write(temporary / f"{name}.safetensors") as file:
                file.write(content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        about = run_folder.finite({**metadata, "files": files})
        run_folder.write_json(temporary / METADATA, {"about": about, "sha256": digest_of(about)})
        remove(path)
        temporary.rename(path)
        for folder in (path.parent, path.parent.parent):  # The first save creates both.
            fsync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove(path: Path) -> None:
    """Removes a checkpoint, if it exists; renames it first, so that no reader sees half of one."""
    if path.exists():
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        shutil.rmtree(old)


def read_metadata(path: Path) -> dict[str, Any]:
    """Returns the metadata that a checkpoint was saved with, and its `files`. Raises Damaged."""
    if not (path / METADATA).exists():
        raise Damaged(f"{METADATA} is missing")
    try:
        match run_folder.read_json(path / METADATA):
            case {"about": {"files": dict()} as about, "sha256": str(sha256)}:
                if digest_of(about) == sha256:
                    return about
    except UserError as error:
        raise Damaged(str(error)) from None
    raise Damaged(f"{METADATA} is not as it was written")


def read(path: Path, name: str, like: Any) -> Any:
    """Returns tree `name` of a checkpoint, with the shapes, types and sharding of `like`.

    Raises Damaged, or UserError if an undamaged tree does not fit `like`.
    """
    from safetensors import SafetensorError, safe_open

    file = path / f"{name}.safetensors"
    check_content(file, read_metadata(path)["files"].get(name))
    leaves = named_leaves(like)
    wanted = {key: (DTYPES[leaf.dtype.name], *leaf.shape) for key, leaf in leaves.items()}
    try:
        with safe_open(file, framework="numpy") as tensors:
            names = tensors.keys()
            kinds = {key: tensors.get_slice(key) for key in names}
            there = {key: (kind.get_dtype(), *kind.get_shape()) for key, kind in kinds.items()}
            check_fit(file, there, wanted)
            loaded = {key: tensors.get_tensor(key) for key in wanted}
    except SafetensorError as error:
        raise Damaged(f"{file.name} can't be read: {error}") from None
    placed = [devices.place(loaded[key], leaf.sharding) for key, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def fetch(tree: Any) -> Any:
    """Returns copies of all arrays, as NumPy arrays; of several processes, in process 0 alone.

    Gathers one array after the other, for the devices may not have room for all.
    """
    if cluster.count() == 1:
        return jax.tree.map(lambda leaf: np.array(leaf, copy=True), jax.device_get(tree))

    def gathered(leaf: jax.Array) -> np.ndarray | None:
        assert isinstance(leaf.sharding, NamedSharding)
        whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        copy = devices.place(leaf, whole).addressable_data(0)
        return np.array(copy, copy=True) if cluster.is_first() else None

    return jax.tree.map(gathered, tree)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths in it: {"block_0/mlp/up/kernel": ...}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def check_content(file: Path, expected: Any) -> None:
    """Raises Damaged unless a file has the size and the sha256 in the metadata."""
    match expected:
        case {"bytes": int(size), "sha256": str(sha256)}:
            pass
        case _:
            raise Damaged(f"{METADATA} says nothing of {file.name}")
    if not file.is_file():
        raise Damaged(f"{file.name} is missing")
    try:
        # Size first: a truncated or far too large file is not read.
        if (found_size := file.stat().st_size) != size:
            raise Damaged(f"{file.name} has {found_size} bytes instead of {size}")
        with open(file, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:  # A bad sector.
        raise Damaged(f"{file.name} can't be read: {error.strerror}") from None
    if found != sha256:
        raise Damaged(f"{file.name} has sha256 {found} instead of {sha256}")


def check_fit(file: Path, there: dict[str, tuple], wanted: dict[str, tuple]) -> None:
    """Raises a UserError that lists tensors only in the file (+) and only in the model (-)."""
    differences = [
        f"{sign}{key} {list(kind)}"
        for sign, one, other in (("+", there, wanted), ("-", wanted, there))
        for key, kind in sorted(one.items())
        if other.get(key) != kind
    ]
    if differences:
        shown = ", ".join(differences[:6]) + (", ..." if len(differences) > 6 else "")
        raise UserError(
            f"{file} does not fit the model of config.json and tokenizer.json (+ only in the file, "
            f"- only in the model: {shown}): use the files of one run together"
        )


def digest_of(about: dict) -> str:
    """Returns the sha256 of metadata, independent of the layout of its JSON."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
