"""Files of pretrained weights: which are read, and one line for what can't be."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints import pretrained, weight_files
from runtime.errors import UserError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def tensors(*names, value=1.0):
    return {name: np.full(2, value, np.float32) for name in names}


def shard(folder, **files):
    """Writes files of tensors, by their stems, each given as names."""
    for stem, names in files.items():
        save_file(tensors(*names), folder / f"{stem}.safetensors")


def index(folder, weight_map):
    (folder / weight_files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def text(name, content="x"):
    """Returns a function that writes one file."""
    return lambda folder: (folder / name).write_text(content)


def indexed(weight_map, **files):
    """Returns a function that writes an index and files."""
    return lambda folder: (shard(folder, **files), index(folder, weight_map))


def test_the_one_file_comes_first(tmp_path):
    """Before an index and beside an adapter, as in `transformers`."""
    shard(tmp_path, model=["a"], one=["a", "b"], adapter_model=["lora"])
    index(tmp_path, {"a": "one.safetensors"})
    assert set(weight_files.load(tmp_path)) == {"a"}
    assert weight_files.find(tmp_path) == [tmp_path / "model.safetensors"]


def test_the_index_is_obeyed(tmp_path):
    """Of a tensor in two files the index names one; files that it does not name are not read."""
    save_file(tensors("a", "b", value=1), tmp_path / "one.safetensors")
    save_file(tensors("b", "c", value=2), tmp_path / "two.safetensors")
    save_file(tensors("a", value=3), tmp_path / "old.safetensors")
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    found = {name: float(tensor[0]) for name, tensor in weight_files.load(tmp_path).items()}
    assert found == {"a": 1, "b": 2, "c": 2}
    digest = weight_files.digest(tmp_path)
    (tmp_path / "old.safetensors").unlink()
    assert weight_files.digest(tmp_path) == digest


def test_files_without_an_index_belong_together(tmp_path):
    shard(tmp_path, one=["a"], two=["b"], adapter_model=["lora"])
    assert set(weight_files.load(tmp_path)) == {"a", "b"}


A = {"a": "one.safetensors"}
BROKEN = {
    "nothing": (lambda folder: None, "holds no *.safetensors: expected the weights there"),
    "pytorch_model.bin": (
        text("pytorch_model.bin"),
        "pytorch_model.bin is pickled, and reading it could run any code: convert it into a folder",
    ),
    "pickled in several files": (text("pytorch_model-00001-of-00002.bin"), "is pickled, and"),
    "nanoGPT": (text("ckpt.pt"), "ckpt.pt --output=FOLDER (make peers installs what that needs)"),
    "a pointer to a pickle": (text("pytorch_model.bin", POINTER), "is a git-lfs pointer, not"),
    "TensorFlow": (text("tf_model.h5"), "tf_model.h5 is in TensorFlow's format: expected *.safe"),
    "Flax": (text("flax_model.msgpack"), "is in Flax's format: expected *.safetensors; save the"),
    "llama.cpp": (text("model-q4_0.gguf"), "is in llama.cpp's format"),
    "ONNX": (text("model.onnx"), "is in ONNX's format"),
    "OpenAI": (text("model.ckpt.index"), "is in TensorFlow or Lightning's format"),
    "LoRA": (
        lambda folder: shard(folder, adapter_model=["a"]),
        "adapter_model.safetensors is an adapter (LoRA), not a model: merge it into its model",
    ),
    "a pointer": (
        text("model.safetensors", POINTER),
        "model.safetensors is a git-lfs pointer, not the file itself: run `git lfs install && git",
    ),
    "a pointer for one of two": (
        lambda folder: (shard(folder, one=["a"]), text("two.safetensors", POINTER)(folder)),
        "two.safetensors is a git-lfs pointer",
    ),
    "a pointer for the index": (text(weight_files.INDEX, POINTER), "json is a git-lfs pointer"),
    "no bytes": (text("model.safetensors", ""), "model.safetensors, 0 bytes: "),
    "a page of a website": (text("model.safetensors", "<!doctype html>"), "download the file"),
    "an unfinished download": (
        lambda folder: (
            shard(folder, model=["a"]),
            (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-1]
            ),
        ),
        "the weights can't be read: model.safetensors, ",
    ),
    "a tensor twice": (
        lambda folder: shard(folder, one=["a", "b"], two=["b"]),
        "one.safetensors and two.safetensors both hold b: expected each tensor once; remove one of",
    ),
    "an index of other files": (
        indexed({"a": "one.safetensors", "b": "two.safetensors"}, one=["a"]),
        "index.json names two.safetensors, which is not there: download the folder again, whole",
    ),
    "an index of other tensors": (
        indexed({**A, "b": "one.safetensors"}, one=["a"]),
        "index.json: b is not in one.safetensors: download the folder again",
    ),
    "an index without files": (indexed({}), "index.json: expected weight_map, the file beside it"),
    "an index of numbers": (indexed({"a": 1}), "index.json: expected weight_map"),
    "an index that leads elsewhere": (indexed({"a": "../x.safetensors"}), "expected weight_map"),
    "an index that is no object": (text(weight_files.INDEX, "[]"), "expected a JSON object"),
    "an index that is no JSON": (text(weight_files.INDEX, "{"), "index.json can't be read"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_can_not_be_read_is_named(tmp_path, kind):
    write, message = BROKEN[kind]
    write(tmp_path)
    with pytest.raises(UserError) as error:
        weight_files.load(tmp_path)
    assert message in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    if kind == "nothing":
        assert not weight_files.exist(tmp_path)
    else:  # Also where a run folder would do: no command says that its files are missing.
        with pytest.raises(UserError) as opened:
            pretrained.open_model(tmp_path, "latest")
        assert "run folder" not in str(opened.value)
