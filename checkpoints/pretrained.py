"""Weights of GPT-2 in Hugging Face's format: to begin with, to write and measure with, to pass on.

    python main.py --config=experiments/gpt2.py:finetune --config.model.init_from=FOLDER
    python generate.py --workdir=FOLDER --prompt="ROMEO:"
    python export.py --workdir=runs/x --output=FOLDER

FOLDER holds config.json and *.safetensors; what a model begins with may also be a name on the hub,
such as openai-community/gpt2, where there is a network. What export writes, transformers reads.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from input_pipeline.hugging_face import to_library
from input_pipeline.tokenizers import Tokenizer
from models import hugging_face
from runtime import devices
from runtime.errors import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# At a time, in an evaluation of weights that no experiment describes: 1 GiB.
MOST_LOGITS = 2**28


class Weights(NamedTuple):
    """Parameters to begin with: NumPy arrays of float32, and the sha256 of the files."""

    params: dict[str, Any]
    digest: str


def find(name: str) -> Path:
    """The folder that `name` is, or that the hub has under that name.

    Raises UserError if there is neither.
    """
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        is_file = folder.exists()
    except (OSError, RuntimeError) as error:  # A name that is too long, a user that there is not.
        raise UserError(f"{name} is no folder: {error}") from None
    if is_file or name.count("/") > 1 or name.startswith((".", "~")):
        raise UserError(f"{name} is no folder: expected one with {CONFIG} and *.safetensors")
    try:
        from huggingface_hub import snapshot_download

        # Folders below have the same weights for other programs.
        wanted = dict(allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["*/*"])
        return Path(snapshot_download(name, **wanted))
    except Exception as error:  # No network, no such name, no right to it: of many classes.
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{name} is no folder here and could not be had from the hub "
            f"({reason[0] if reason else type(error).__name__})"
        ) from None


def holds_weights(folder: Path) -> bool:
    """Whether a folder is one of pretrained weights and no run folder."""
    try:
        return any(folder.glob("*.safetensors")) and (folder / CONFIG).exists()
    except OSError:  # Whoever reads it as a run folder says what is wrong.
        return False


def adopt(config: ConfigDict, workdir: Path) -> ConfigDict:
    """`config` with the shape of the weights that `model.init_from` names, if it names any.

    A run that has begun in `workdir` has that shape already, and the weights need not be there any
    more. The context stays what the config says, as long as the weights have so many positions.
    Raises UserError for weights that can't be used, and for a config that asks for others' choices.
    """
    if not config.model.init_from:
        return config
    check.refuse(check.mistakes(config))
    hugging_face.check_is_gpt2(config.model.to_dict())
    # A folder that can't be looked into is refused by whoever is to write there.
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
                f"config.model.context_length={asked}: {folder} has {most} positions; ask for no "
                "more"
            )
    # Sizes an experiment has in any case; these it has only if they were asked for.
    neutral = default.get_config().model
    for key in ("activation", "tied_embeddings"):
        if config.model[key] not in (neutral[key], settings[key]):
            raise UserError(
                f"config.model.{key}={config.model[key]}: the weights of config.model.init_from "
                f"have {settings[key]}; leave it out"
            )
    adopted = ConfigDict(config.to_dict())
    adopted.model.update(settings)
    return adopted.lock()


def load(config: ConfigDict, model: nn.Module, tokenizer: Tokenizer) -> Weights:
    """The weights of `config.model.init_from` for `model`; of its positions the first ones.

    Raises UserError that lists what does not fit the model or the tokenizer.
    """
    folder = find(config.model.init_from)
    check_tokenizer(folder, tokenizer)
    return Weights(load_params(folder, model), text_files.digest(_files(folder)))


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Raises UserError if `folder` is one of weights, and they were trained with other tokens."""
    if not holds_weights(folder):
        return
    size = _config(folder).get("vocab_size", 50_257)
    vocabulary = tokenizer_files.read_vocabulary(folder)
    differs = vocabulary is not None and vocabulary != to_library(tokenizer).get_vocab()
    if differs or size != tokenizer.vocab_size:
        raise UserError(
            f"config.data.tokenizer={tokenizer.name!r} has, for this text, {tokenizer.vocab_size} "
            f"tokens that are not the {size} of the weights in {folder}: those were trained with "
            "another tokenizer, or with one that learned from another text"
        )


def load_params(folder: Path, model: nn.Module) -> dict[str, Any]:
    """The parameters of `model` out of a folder of weights, as `load` has them."""
    with _tensors(folder) as parts:
        shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
        try:
            hugging_face.check_shapes(shapes, model)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        names = hugging_face.tensor_names(model.num_layers, hugging_face.is_tied(model))
        # On the host, wherever the model goes.
        with jax.default_device(jax.devices("cpu")[0]):
            return hugging_face.to_params({name: parts[name][:] for name in names}, model)


def open_model(workdir: Path, which: str) -> manager.Trained:
    """The model of a run folder, at checkpoint `which`, or that of a folder of weights.

    Raises UserError if it is neither.
    """
    if not holds_weights(workdir):
        return manager.load(workdir, which)
    tokenizer = tokenizer_files.read(workdir)
    check_tokenizer(workdir, tokenizer)
    config = default.get_config()
    config.data.tokenizer = tokenizer.name
    config.model.update(name="gpt2", **_settings(workdir))
    # Logits of GPT-2's vocabulary and context are 200 MB a window.
    logits = config.model.context_length * tokenizer.vocab_size
    config.eval.batch_size = max(1, min(config.eval.batch_size, MOST_LOGITS // max(1, logits)))
    check.refuse([f"{workdir / CONFIG}: {message}" for message in check.mistakes(config)])
    model = models.build(config.model, tokenizer.vocab_size)
    params = devices.replicate(load_params(workdir, model), devices.data_mesh(1))
    return manager.Trained(config, tokenizer, model, params, step=0)


def export(workdir: Path, which: str, output: Path) -> None:
    """Writes the model of a run as a folder for `transformers.GPT2LMHeadModel.from_pretrained`.

    Raises UserError if GPT-2 has no such model, or the folder can't be written.
    """
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
        # Whole or not at all.
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
        raise UserError(f"{folder} holds no {CONFIG}: expected one of a GPT-2, as transformers has")
    return run_folder.read_object(folder / CONFIG)


def _settings(folder: Path) -> dict[str, Any]:
    return hugging_face.settings_from(_config(folder), folder / CONFIG)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@contextmanager
def _tensors(folder: Path) -> Iterator[dict[str, Any]]:
    """The tensors in all files of a folder, by name, to be read one by one."""
    from safetensors import SafetensorError, safe_open

    files = _files(folder)
    if not files:
        raise UserError(f"{folder} holds no *.safetensors: expected the weights there")
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(safe_open(file, framework="flax")) for file in files]
            yield {
                hugging_face.plain_name(name): file.get_slice(name)
                for file in opened
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder}: the weights can't be read: {error}") from None
