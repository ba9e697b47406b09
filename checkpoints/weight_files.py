"""Files of pretrained weights: the ones that `transformers` would read, and what others are."""

from pathlib import Path
from typing import Any

import jax

import run_folder
from input_pipeline import text_files
from runtime.errors import UserError
from runtime.files import check_not_a_pointer

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # Of weights in several files: the file of each tensor.
SAFETENSORS, ADAPTER = "*.safetensors", "adapter_model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth")
# Patterns of other formats, and whose they are.
FOREIGN = {
    "*.h5": "TensorFlow",
    "*.msgpack": "Flax",
    "*.gguf": "llama.cpp",
    "*.onnx": "ONNX",
    "*.ckpt*": "TensorFlow or Lightning",
}


def exist(folder: Path) -> bool:
    """Returns True for a folder with weights of any format; a run folder has none."""
    patterns = (SAFETENSORS, INDEX, *PICKLED, *FOREIGN)
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def find(folder: Path) -> list[Path]:
    """Returns the files that hold the weights. Raises UserError, which says what is there instead.

    As in `transformers`, model.safetensors comes first, and then what the index names. Else all
    *.safetensors belong together.
    """
    if (folder / WEIGHTS).exists():
        files = [folder / WEIGHTS]
    elif (folder / INDEX).exists():
        files = sorted({folder / name for name in _weight_map(folder).values()})
    else:
        files = sorted(set(folder.glob(SAFETENSORS)) - {folder / ADAPTER})
    if not files:
        raise UserError(_other_format(folder))
    for file in (folder / INDEX, *files):
        check_not_a_pointer(file)
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(
            f"{folder / INDEX} names {', '.join(missing)}, which is not there: download the folder "
            "again, whole"
        )
    return files


def load(folder: Path) -> dict[str, Any]:
    """Returns the tensors by name. Raises UserError as `find`, and for a tensor in two files."""
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    files = find(folder)
    is_indexed = files != [folder / WEIGHTS] and (folder / INDEX).exists()
    weight_map = _weight_map(folder) if is_indexed else {}
    tensors: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for file in files:
        try:
            with jax.default_device(jax.devices("cpu")[0]):
                found = load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{folder}: the weights can't be read: {file.name}, {file.stat().st_size} bytes: "
                f"{error}: download the file again"
            ) from None
        if is_indexed:
            found = {name: found[name] for name in found if weight_map.get(name) == file.name}
        if twice := sorted(found.keys() & tensors.keys()):
            raise UserError(
                f"{folder}: {origin[twice[0]]} and {file.name} both hold {twice[0]}: expected each "
                "tensor once; remove one of the files"
            )
        tensors |= found
        origin |= dict.fromkeys(found, file.name)
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise UserError(
            f"{folder / INDEX}: {missing[0]} is not in {weight_map[missing[0]]}: download the "
            "folder again, whole"
        )
    return tensors


def digest(folder: Path) -> str:
    """Returns the sha256 of the files that hold the weights."""
    return text_files.digest(find(folder))


def _weight_map(folder: Path) -> dict[str, str]:
    """Returns the name of the file that holds each tensor, from the index."""
    check_not_a_pointer(folder / INDEX)
    names = run_folder.read_object(folder / INDEX).get("weight_map")
    is_map = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
    if not names or not is_map or any(Path(name).name != name for name in names.values()):
        raise UserError(f"{folder / INDEX}: expected weight_map, the file beside it of each tensor")
    return names


def _other_format(folder: Path) -> str:
    """Returns what a folder without weights in safetensors holds, and what to do."""
    if (folder / ADAPTER).exists():
        return (
            f"{folder / ADAPTER} is an adapter (LoRA), not a model: merge it into its model with "
            "peft's merge_and_unload, and save that"
        )
    for file in (file for pattern in PICKLED for file in sorted(folder.glob(pattern))):
        check_not_a_pointer(file)
        return (
            f"{file} is pickled, and reading it could run any code: convert it into a folder of "
            f"safetensors with .venv-peers/bin/python -m benchmarks.import_torch --input={file} "
            "--output=FOLDER (make peers installs what that needs)"
        )
    for pattern, whose in FOREIGN.items():
        for file in sorted(folder.glob(pattern)):
            return (
                f"{file} is in {whose}'s format: expected {SAFETENSORS}; save the model with "
                "transformers' save_pretrained"
            )
    return f"{folder} holds no {SAFETENSORS}: expected the weights there"
