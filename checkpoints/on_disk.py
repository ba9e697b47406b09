"""One checkpoint on the disk: a folder that is whole, or is not there, and can't be something else.

    params.safetensors      the parameters, a tensor each, named by their path in the tree
    opt_state.safetensors   the optimizer's state, likewise
    checkpoint.json         the run's numbers at that step, and the size and sha256 of each file

It is written under another name, flushed to the disk and renamed. What is read is checked against
its sha256, then against the names, shapes and types that the model asks for, and only then loaded.
The format holds numbers and names alone, so nothing in a checkpoint can be run; which files are
opened is decided here, by no name that stands in one.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

import run_folder
from runtime.errors import UserError
from runtime.files import replacing, sync

ABOUT = "checkpoint.json"
BLOCK = 1 << 20
# As safetensors calls them.
DTYPES = {
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
}


class Damaged(Exception):
    """A checkpoint is not as it was written. The message is one line that says what is wrong."""


def write(path: Path, trees: dict[str, Any], about: dict[str, Any]) -> None:
    """Puts a checkpoint at `path`, in place of one that is there: NumPy trees, and some numbers.

    Raises OSError, and leaves what was there, if the disk does not take it.
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
            with replacing(temporary / file_name(name)) as file:
                file.write(content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        about = run_folder.finite({**about, "files": files})
        run_folder.write_json(temporary / ABOUT, {"about": about, "sha256": digest_of(about)})
        remove(path)
        temporary.rename(path)
        for folder in (path.parent, path.parent.parent):  # The first one creates its folder, too.
            sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove(path: Path) -> None:
    """Removes a checkpoint, if it is there; half of one is never to be seen under its name."""
    if path.exists():
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        shutil.rmtree(old)


def read_about(path: Path) -> dict[str, Any]:
    """The numbers that were saved with a checkpoint, and its `files`. Raises Damaged."""
    if not (path / ABOUT).exists():
        raise Damaged(f"{ABOUT} is missing")
    try:
        match run_folder.read_json(path / ABOUT):
            case {"about": {"files": dict()} as about, "sha256": str(sha256)}:
                if digest_of(about) == sha256:
                    return about
    except UserError as error:
        raise Damaged(str(error)) from None
    raise Damaged(f"{ABOUT} is not as it was written")


def read(path: Path, name: str, like: Any) -> Any:
    """Tree `name` of a checkpoint, shaped, typed and laid out over devices as the arrays of `like`.

    Raises Damaged, or UserError if what is there is whole but does not fit `like`.
    """
    from safetensors import SafetensorError, safe_open

    file = path / file_name(name)
    check_content(file, read_about(path)["files"].get(name))
    wanted = named_leaves(like)
    try:
        with safe_open(file, framework="numpy") as tensors:
            kinds = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
            there = {key: (kind.get_dtype(), *kind.get_shape()) for key, kind in kinds.items()}
            check_fit(file, there, {key: kind_of(leaf) for key, leaf in wanted.items()})
            loaded = {key: tensors.get_tensor(key) for key in wanted}
    except SafetensorError as error:
        raise Damaged(f"{file.name} can't be read: {error}") from None
    leaves = [jax.device_put(loaded[key], leaf.sharding) for key, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def file_name(name: str) -> str:
    """The file of tree `name`."""
    return f"{name}.safetensors"


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths in it: {"block_0/mlp/up/kernel": ...}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def kind_of(leaf: Any) -> tuple:
    """Type and shape of an array, as safetensors says them."""
    return (DTYPES[np.dtype(leaf.dtype).name], *leaf.shape)


def check_content(file: Path, expected: Any) -> None:
    """Raises Damaged unless a file has the size and the sha256 that were written down."""
    match expected:
        case {"bytes": int(size), "sha256": str(sha256)}:
            pass
        case _:
            raise Damaged(f"{ABOUT} says nothing of {file.name}")
    if not file.is_file():
        raise Damaged(f"{file.name} is missing")
    found = hashlib.sha256()
    try:
        # First the size: what was truncated, or is far too large, need not be read.
        if os.path.getsize(file) != size:
            raise Damaged(f"{file.name} has {os.path.getsize(file)} bytes instead of {size}")
        with open(file, "rb") as content:
            while block := content.read(BLOCK):
                found.update(block)
    except OSError as error:  # A bad sector.
        raise Damaged(f"{file.name} can't be read: {error.strerror}") from None
    if found.hexdigest() != sha256:
        raise Damaged(f"{file.name} has sha256 {found.hexdigest()} instead of {sha256}")


def check_fit(file: Path, there: dict[str, tuple], wanted: dict[str, tuple]) -> None:
    """Raises UserError that lists what only the file has (+) and what only the model has (-)."""
    if there == wanted:
        return
    differences = [
        f"{sign}{key} {list(kind)}"
        for sign, one, other in (("+", there, wanted), ("-", wanted, there))
        for key, kind in sorted(one.items())
        if other.get(key) != kind
    ]
    shown = ", ".join(differences[:6]) + (", ..." if len(differences) > 6 else "")
    raise UserError(
        f"{file} does not fit the model of config.json and tokenizer.json (+ only in the file, - "
        f"only in the model: {shown}): use the files of one run together"
    )


def digest_of(about: dict) -> str:
    """The sha256 of numbers, however their file is laid out."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
