"""Converts pickled weights of a GPT-2 into a folder of safetensors, which every command takes.

    make peers
    .venv-peers/bin/python -m benchmarks.import_torch --input=out/ckpt.pt --output=FOLDER

Reads nanoGPT's ckpt.pt, whose characters are in the meta.pkl of its data (--meta), and
pytorch_model.bin with the files beside it. Unpickling is limited to tensors and plain values, so
that no code of a file runs.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages("torch", ".venv-peers", "peers")


import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from absl import flags
from safetensors.numpy import save_file

import run_folder
from checkpoints import pretrained
from checkpoints.weight_files import WEIGHTS
from input_pipeline import hugging_face as hugging_face_files
from input_pipeline import pretrained_tokenizer
from input_pipeline.tokenizers import CharTokenizer, Gpt2Tokenizer, Tokenizer
from models import hugging_face
from runtime import errors
from runtime.errors import UserError

# Keys of nanoGPT's model_args, and GPT2Config's.
MODEL_ARGS = {
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
}
COMPILED = "_orig_mod."  # Prefix of torch.compile.
LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


class PlainUnpickler(pickle.Unpickler):
    """Unpickler of dicts, strings and numbers alone."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises UnpicklingError: nothing plain needs a class or a function."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def main() -> None:
    """Writes the folder `--output` and prints its name."""
    flag = flags.FLAGS
    convert(Path(flag.input), Path(flag.output), flag.meta and Path(flag.meta))
    print(flag.output)


def convert(path: Path, output: Path, meta: Path | None = None) -> None:
    """Writes the weights in `path` to the new folder `output`. Raises UserError if it can't."""
    parts = sorted(path.parent.glob("*-of-*.bin")) if "-of-" in path.name else [path]
    content = {name: value for part in parts for name, value in _unpickle(part).items()}
    tokenizer, beside = None, [path.with_name(name) for name in pretrained_tokenizer.FILES]
    if MODEL_ARGS.keys() <= (content.get("model_args") or {}).keys() and "model" in content:
        config, tensors = from_nanogpt(content["model"], content["model_args"])
        tokenizer, beside = _tokenizer(config["vocab_size"], meta), []
    elif (path.parent / "config.json").exists() and _are_tensors(content):
        config = run_folder.read_object(path.parent / "config.json")
        tensors = {name: tensor.float().numpy() for name, tensor in content.items()}
    else:
        raise UserError(
            f"{path} holds {', '.join(sorted(map(str, content))[:5])}: expected nanoGPT's model "
            "and model_args, or tensors and a config.json beside them"
        )
    try:
        output.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--output={output} can't be written: {error.strerror}") from None
    for file in filter(Path.exists, beside):
        (output / file.name).write_bytes(file.read_bytes())
    if tokenizer:
        hugging_face_files.write(tokenizer, output)
    run_folder.write_json(output / "config.json", config)
    save_file(tensors, output / WEIGHTS, {"format": "pt"})


def from_nanogpt(
    model: dict[str, torch.Tensor], model_args: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns a GPT2Config and a GPT2LMHeadModel's tensors from nanoGPT's.

    nanoGPT's GELU is exact, its linear layers are [out, in], and it may have no biases, which are
    zero here.
    """
    config = {theirs: model_args[ours] for ours, theirs in MODEL_ARGS.items()}
    config |= {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    config |= {"activation_function": "gelu", "bos_token_id": None, "eos_token_id": None}
    tensors = {}
    for name, tensor in model.items():
        name, value = name.removeprefix(COMPILED), tensor.float().numpy()
        if name.endswith(hugging_face.MASKS) or name == hugging_face.HEAD:
            continue  # The head is the token embedding.
        place, _, kind = name.rpartition(".")
        is_linear = kind == "weight" and place.endswith(LINEAR)
        tensors[name] = np.ascontiguousarray(value.T if is_linear else value)
        if kind == "weight" and "wte" not in name and "wpe" not in name:
            size = tensors[name].shape[-1]
            tensors.setdefault(f"{place}.bias", np.zeros(size, np.float32))
    return config, tensors


def _tokenizer(vocab_size: int, meta: Path | None) -> Tokenizer:
    """Returns nanoGPT's tokenizer: characters if there is a meta.pkl, else GPT-2's."""
    if meta is None:
        if vocab_size not in pretrained.padded_sizes(Gpt2Tokenizer.vocab_size):
            raise UserError(
                f"--input has {vocab_size} tokens, which are not GPT-2's: give the meta.pkl of "
                "nanoGPT's data folder as --meta"
            )
        return Gpt2Tokenizer()
    try:
        with open(meta, "rb") as file:
            characters = PlainUnpickler(file).load()["itos"]
        return CharTokenizer("".join(characters[n] for n in range(len(characters))))
    except Exception as error:  # A damaged pickle raises of any class.
        raise UserError(f"--meta={meta} can't be read as nanoGPT's: {error}") from None


def _are_tensors(content: dict[str, Any]) -> bool:
    return all(isinstance(value, torch.Tensor) for value in content.values())


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[:1]
        raise UserError(f"{path} can't be read: {' '.join(reason)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: expected tensors by name")
    return content


if __name__ == "__main__":
    flags.DEFINE_string("input", None, "ckpt.pt or pytorch_model.bin.", required=True)
    flags.DEFINE_string("output", None, "Folder to write.", required=True)
    flags.DEFINE_string("meta", None, "nanoGPT's meta.pkl, for a model of characters.")
    errors.run_command(main)
