"""GPT-2 weights in Hugging Face's format: fine-tune from them, generate with them, export them.

    python main.py --config=experiments/gpt2.py:finetune --config.model.init_from=FOLDER
    python generate.py --workdir=FOLDER --prompt="ROMEO:"
    python export.py --workdir=runs/x --output=FOLDER

FOLDER holds config.json, *.safetensors and a tokenizer. init_from may also name a model on the hub,
such as openai-community/gpt2. transformers reads the folder that export writes.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from flax import linen as nn
from ml_collections import ConfigDict

import models
import run_folder
from checkpoints import manager, weight_files
from config import check
from experiments import default
from input_pipeline import hugging_face as tokenizer_files
from input_pipeline import pretrained_tokenizer, tokenizers
from input_pipeline.hugging_face import to_hugging_face
from input_pipeline.tokenizers import Tokenizer
from models import hugging_face, padding
from runtime import devices
from runtime.errors import UserError
from runtime.files import check_not_a_pointer

CONFIG = "config.json"
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
        patterns = ["*.json", "*.safetensors", pretrained_tokenizer.MERGES]
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
        return weight_files.exist(folder)
    except OSError:  # Reading it as a run folder then reports the error.
        return False


def with_pretrained_shape(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns `config` with sizes, choices and tokenizer of the weights of `model.init_from`.

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
        before = check.from_json(run_folder.read_json(path), workdir)
        settings = {ours: before.model[ours] for ours, _ in hugging_face.SETTINGS.values()}
        settings.pop("context_length")
        asked, kept = config.data.tokenizer, before.data.tokenizer
        is_kept = kept.startswith(tokenizers.FOLDER_PREFIX) or asked == _usual_tokenizer()
        tokenizer = kept if is_kept else asked
    else:
        folder = find(config.model.init_from)
        weight_files.find(folder)
        settings = _settings(folder)
        tokenizer = _tokenizer_of(folder, config)
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
    shaped.data.tokenizer = tokenizer
    return shaped.lock()


def load(init_from: str, model: nn.Module, tokenizer: Tokenizer) -> Weights:
    """Returns the weights of `init_from`. Raises UserError if the model or tokenizer differs."""
    folder = find(init_from)
    check_tokenizer(folder, tokenizer)
    return Weights(load_params(folder, model), weight_files.digest(folder))


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Raises UserError if `folder` holds weights that were trained with another tokenizer.

    Without a tokenizer there, the weights may have more rows than tokens, up to a round number.
    """
    rows = _config(folder).get("vocab_size", hugging_face.VOCAB_SIZE)
    if pretrained_tokenizer.exists(folder):
        own = to_hugging_face(pretrained_tokenizer.read(folder))
        fits = own.get_vocab() == to_hugging_face(tokenizer).get_vocab()
    else:
        fits = rows in padded_sizes(tokenizer.vocab_size)
    if not fits:
        raise UserError(
            f"--config.data.tokenizer={tokenizer.name!r} has, for this text, "
            f"{tokenizer.vocab_size} tokens that are not the {rows} of the weights in {folder}: "
            "expected the tokenizer, and the text it learned from, that they were trained with"
        )


def load_params(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Returns the parameters of `model` from a folder of weights. Raises as `load` does."""
    tensors = weight_files.load(folder)
    try:
        params = hugging_face.to_params(tensors, padding.without_padding(model))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    return padding.pad(hugging_face.with_gpt2_scales(params, _config(folder)), model)


def open_model(workdir: Path, which: str) -> manager.Trained:
    """Opens a run's model, at checkpoint `which`, or one of weights; else raises UserError."""
    if not holds_weights(workdir):
        return manager.load(workdir, which)
    weight_files.find(workdir)
    settings = _settings(workdir)
    tokenizer = pretrained_tokenizer.read(workdir)
    config = default.get_config()
    config.data.tokenizer = f"{tokenizers.FOLDER_PREFIX}{workdir}"
    config.model.update(name="gpt2", **settings)
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
    settings = hugging_face.settings_to(
        trained.config.model.to_dict(),
        trained.tokenizer.vocab_size,
        tokenizer_files.end_of_text(trained.tokenizer),
    )
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
            (new / weight_files.WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))
            new.rename(output)
    except OSError as error:
        raise UserError(f"--output={output} can't be written: {error.strerror}") from None


def _tokenizer_of(folder: Path, config: ConfigDict) -> str:
    """Returns `data.tokenizer` for the weights in `folder`: the tokenizer beside them, if any.

    Raises UserError if `config` names another one.
    """
    asked = config.data.tokenizer
    if not pretrained_tokenizer.exists(folder):
        return asked
    own = pretrained_tokenizer.read(folder)
    place = f"{tokenizers.FOLDER_PREFIX}{folder}"
    equal = (own.name, place, f"{tokenizers.TRAINED_PREFIX}{own.vocab_size}")
    if asked not in (_usual_tokenizer(), *equal):
        raise UserError(
            f"--config.data.tokenizer={asked!r}: the weights of --config.model.init_from bring "
            f"their own, of {own.vocab_size} tokens; leave it out"
        )
    return own.name if isinstance(own, tokenizers.Gpt2Tokenizer) else place


def _usual_tokenizer() -> str:
    return default.get_config().data.tokenizer


def padded_sizes(size: int) -> set[int]:
    """Returns `size`, and the multiples of 8, 16, ... 1024 next to it, which GPUs prefer."""
    return {-(-size // step) * step for step in (1, *(2**n for n in range(3, 11)))}


def _config(folder: Path) -> dict[str, Any]:
    check_not_a_pointer(folder / CONFIG)
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds no {CONFIG}: expected that of transformers' GPT-2")
    return run_folder.read_object(folder / CONFIG)


def _settings(folder: Path) -> dict[str, Any]:
    return hugging_face.settings_from(_config(folder), folder / CONFIG)
