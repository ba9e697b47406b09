"""GPT-2 weights in Hugging Face's format: fine-tune from them, generate with them, export them.

    python main.py --config=experiments/gpt2.py:finetune --config.model.init_from=FOLDER
    python generate.py --workdir=FOLDER --prompt="ROMEO:"
    python export.py --workdir=runs/x --output=FOLDER

FOLDER holds config.json and *.safetensors. init_from may also name a model on the hub, such as
openai-community/gpt2. transformers reads the folder that export writes.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from ml_collections import ConfigDict

import models
import run_folder
from checkpoints import manager
from config import check
from experiments import default
from input_pipeline import hugging_face as tokenizer_files
from input_pipeline import text_files
from input_pipeline.hugging_face import to_hugging_face
from input_pipeline.tokenizers import Tokenizer
from models import hugging_face
from runtime import devices
from runtime.errors import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Limit of an evaluation batch of imported weights: 1 GiB of logits.
MAX_LOGITS = 2**28


class Weights(NamedTuple):
    """Pretrained parameters, as NumPy arrays of float32, and the sha256 of their files."""

    params: dict[str, Any]
    digest: str


def find(name: str) -> Path:
    """Returns the folder `name`, or downloads that model. Raises UserError if there is neither."""
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        is_file = folder.exists()
    except (OSError, RuntimeError) as error:  # A name too long, an unknown ~user.
        raise UserError(f"{name} is no folder: {error}") from None
    if is_file or name.count("/") > 1 or name.startswith((".", "~")):
        raise UserError(f"{name} is no folder: expected one with {CONFIG} and *.safetensors")
    try:
        from huggingface_hub import snapshot_download

        # Subfolders hold the same weights for other programs.
        patterns = ["*.json", "*.safetensors"]
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns="*/*"))
    except Exception as error:  # Many classes: no network, no such name, no permission.
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{name} is no folder here and could not be downloaded from the hub "
            f"({reason[0] if reason else type(error).__name__})"
        ) from None


def holds_weights(folder: Path) -> bool:
    """Returns True for a folder of pretrained weights, False for a run folder."""
    try:
        return any(folder.glob("*.safetensors")) and (folder / CONFIG).exists()
    except OSError:  # Reading it as a run folder then reports the error.
        return False


def with_pretrained_shape(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns `config` with the sizes and choices of the weights that `model.init_from` names.

    Returns `config` itself if it names none. A run that has begun in `workdir` provides them
    without the weights. The context length stays the config's, up to the weights' positions.
    Raises UserError for unsupported weights, and for a config that sets other choices.
    """
    if not config.model.init_from:
        return config
    check.raise_errors(check.find_errors(config))
    hugging_face.check_is_gpt2(config.model.to_dict())
    # os.path.exists is False for an unreadable folder; the run's start reports that.
    if os.path.exists(path := workdir / run_folder.CONFIG):
        before = check.from_json(run_folder.read_json(path), workdir).model
        settings = {ours: before[ours] for ours, _ in hugging_face.SETTINGS.values()}
        settings.pop("context_length")
    else:
        folder = find(config.model.init_from)
        settings = _settings(folder)
        asked, most = config.model.context_length, settings.pop("context_length")
        if asked > most:
            raise UserError(
                f"--config.model.context_length={asked}: expected at most the {most} positions of "
                f"{folder}"
            )
    # Every experiment sets sizes, which the weights replace; these two only a user sets.
    neutral = default.get_config().model
    for key in ("activation", "tied_embeddings"):
        if config.model[key] not in (neutral[key], settings[key]):
            raise UserError(
                f"--config.model.{key}={config.model[key]}: the weights of "
                f"--config.model.init_from have {settings[key]}; leave it out"
            )
    shaped = ConfigDict(config.to_dict())
    shaped.model.update(settings)
    return shaped.lock()


def load(init_from: str, model: nn.Module, tokenizer: Tokenizer) -> Weights:
    """Returns the weights of `init_from`. Raises UserError if the model or tokenizer differs."""
    folder = find(init_from)
    check_tokenizer(folder, tokenizer)
    return Weights(
        load_params(folder, model), text_files.digest(sorted(folder.glob("*.safetensors")))
    )


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Raises UserError if `folder` holds weights that were trained with another tokenizer."""
    if not holds_weights(folder):
        return
    size = _config(folder).get("vocab_size", 50_257)
    vocabulary = tokenizer_files.read_vocabulary(folder)
    differs = vocabulary is not None and vocabulary != to_hugging_face(tokenizer).get_vocab()
    if differs or size != tokenizer.vocab_size:
        raise UserError(
            f"--config.data.tokenizer={tokenizer.name!r} has, for this text, "
            f"{tokenizer.vocab_size} tokens that are not the {size} of the weights in {folder}: "
            "expected the tokenizer, "
            "and the text it learned from, that they were trained with"
        )


def load_params(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Returns the parameters of `model` from a folder of weights. Raises as `load` does."""
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no *.safetensors: expected the weights there")
    tensors: dict[str, Any] = {}
    try:
        with jax.default_device(jax.devices("cpu")[0]):
            for file in files:
                tensors |= load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder}: the weights can't be read: {error}") from None
    try:
        return hugging_face.to_params(tensors, model)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def open_model(workdir: Path, which: str) -> manager.Trained:
    """Opens a run's model, at checkpoint `which`, or one of weights; else raises UserError."""
    if not holds_weights(workdir):
        return manager.load(workdir, which)
    tokenizer = tokenizer_files.read(workdir)
    check_tokenizer(workdir, tokenizer)
    config = default.get_config()
    config.data.tokenizer = tokenizer.name
    config.model.update(name="gpt2", **_settings(workdir))
    # Logits of GPT-2's vocabulary and context are 200 MB a window.
    logits = config.model.context_length * tokenizer.vocab_size
    config.eval.batch_size = max(1, min(config.eval.batch_size, MAX_LOGITS // max(1, logits)))
    check.raise_errors([f"{workdir / CONFIG}: {message}" for message in check.find_errors(config)])
    model = models.build(config.model, tokenizer.vocab_size)
    params = devices.replicate(load_params(workdir, model), devices.data_mesh(1))
    return manager.Trained(config, tokenizer, model, params, step=0)


def export(workdir: Path, which: str, output: Path) -> None:
    """Writes a run's GPT-2 for transformers' `from_pretrained`. Raises UserError if it can't."""
    from safetensors.numpy import save

    trained = manager.load(workdir, which)
    vocab_size = trained.tokenizer.vocab_size
    end_of_text = vocab_size - 1 if trained.tokenizer.name == "gpt2" else None
    settings = hugging_face.settings_to(trained.config.model.to_dict(), vocab_size, end_of_text)
    tensors = hugging_face.from_params(trained.params)
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"--output={output} is not empty: name a new folder")
        output.parent.mkdir(parents=True, exist_ok=True)
        # Atomic write: a temporary folder, then a rename.
        with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
            new = Path(temporary, "new")
            new.mkdir()
            run_folder.write_json(new / CONFIG, settings)
            tokenizer_files.write(trained.tokenizer, new)
            (new / WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))
            new.rename(output)
    except OSError as error:
        raise UserError(f"--output={output} can't be written: {error.strerror}") from None


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds no {CONFIG}: expected that of transformers' GPT-2")
    return run_folder.read_object(folder / CONFIG)


def _settings(folder: Path) -> dict[str, Any]:
    return hugging_face.settings_from(_config(folder), folder / CONFIG)
