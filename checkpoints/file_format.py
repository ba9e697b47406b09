"""Atomic, checksummed checkpoint directories.

    params.safetensors      the parameters, a tensor each, named by their path in the tree
    opt_state.safetensors   the optimizer's state, likewise
    checkpoint.json         the run's numbers at that step, and the size and sha256 of each file

Several processes deal out the tensors (parts.py): params-0-of-2.safetensors, and so on. Any number
of processes reads the files of any other.

Writing makes a temporary directory, calls fsync and renames. Reading checks each file's sha256,
then the names, shapes and types against the model's, and only then loads. The format holds only
numbers and names, so no code in a checkpoint can run, and no name in one decides which files open.
"""

import hashlib
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

import run_folder
from checkpoints import parts
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


def write(
    path: Path, trees: dict[str, Any], metadata: dict[str, Any], *, finite: bool = False
) -> None:
    """Writes a checkpoint of NumPy trees and `metadata`, in place of one that is at `path`.

    Of several processes each writes its part, as `parts.fetch` has dealt it, and process 0 the
    metadata, when all parts are there.

    Raises OSError, and leaves what was there, if writing fails in one of them; and ValueError, with
    `finite`, for numbers that are not finite.
    """
    temporary = path.with_name(f".{path.name}.new")
    place = f"{path.parent.name}/{path.name}"
    try:
        with cluster.meeting(f"{place} is written"):
            with cluster.meeting(f"{place} is begun"):
                if cluster.is_first():
                    remove(temporary)
                    temporary.mkdir(parents=True)
            if finite and not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trees)):
                raise ValueError("it holds numbers that are not finite")
            parts.write_digests(temporary, _write_files(temporary, trees))
        if not cluster.is_first():
            return
        files = parts.read_digests(temporary)
        about = run_folder.finite({**metadata, "files": files})
        run_folder.write_json(temporary / METADATA, {"about": about, "sha256": digest_of(about)})
        remove(path)
        temporary.rename(path)
        for folder in (path.parent, path.parent.parent):  # The first save creates both.
            fsync(folder)
    finally:
        if cluster.is_first():
            shutil.rmtree(temporary, ignore_errors=True)


def _write_files(folder: Path, trees: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Writes a file for each tree; returns their sizes and sha256 by their names."""
    from safetensors.numpy import save

    files = {}
    for name, tree in trees.items():
        leaves = {key: np.asarray(leaf, order="C") for key, leaf in named_leaves(tree).items()}
        content = save(leaves)
        part = parts.name(name, cluster.index(), cluster.count())
        with atomic_write(folder / f"{part}.safetensors") as file:
            file.write(content)
        files[part] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return files


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
    check_files(path, name)
    return load(path, name, like)


def load(path: Path, name: str, like: Any) -> Any:
    """Returns what `read` does, of files that `check_files` has passed.

    Of several processes each reads what its own devices get, a tensor at a time.
    """
    from safetensors import SafetensorError, safe_open

    leaves = named_leaves(like)
    wanted = {key: (DTYPES[leaf.dtype.name], *leaf.shape) for key, leaf in leaves.items()}
    names = parts.names(name, read_metadata(path)["files"])
    file = path / f"{names[0]}.safetensors"
    try:
        with ExitStack() as stack:
            found: dict[str, Any] = {}
            for part in names:
                file = path / f"{part}.safetensors"
                tensors = stack.enter_context(safe_open(file, framework="numpy"))
                keys = tensors.keys()
                found |= {key: tensors.get_slice(key) for key in keys}
            there = {key: (kind.get_dtype(), *kind.get_shape()) for key, kind in found.items()}
            check_fit(path / f"{name}{'-*' * (len(names) > 1)}.safetensors", there, wanted)
            placed = [
                devices.place_slices(found[key], leaf.shape, leaf.sharding)
                for key, leaf in leaves.items()
            ]
    except SafetensorError as error:
        raise Damaged(f"{file.name} can't be read: {error}") from None
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def check_files(path: Path, name: str) -> None:
    """Raises Damaged unless the files of tree `name` are as they were written.

    Of several processes each checks a share of the files: `cluster.exchange` what they find.
    """
    files = read_metadata(path)["files"]
    for part in parts.names(name, files)[cluster.index() :: cluster.count()]:
        check_content(path / f"{part}.safetensors", files.get(part))


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
