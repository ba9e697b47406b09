"""Models of runs as W&B artifacts: what one consists of, and how its address is opened.

The address `wandb:ENTITY/PROJECT/NAME:ALIAS` stands for a run folder that can only be read. Its
files are kept in the user's cache, by the digest of their content: an alias moves, a content does
not.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import run_folder
from runtime import process
from runtime.errors import UserError
from tracking import server
from tracking.sink import Model

PREFIX = "wandb:"
ADDRESS = re.compile(rf"{PREFIX}([^/:]+)/([^/:]+)/([^/:]+):([^/:]+)")
TYPE = "model"
# Files of a run folder without which its checkpoint can't be used, and the summary.
FILES = (run_folder.CONFIG, run_folder.TOKENIZER, run_folder.SUMMARY)
# Parts of environment.json that differ between runs of one kind, or name files.
NOT_SENT = ("command", "started", "before")
# What W&B accepts in an artifact's name, and how long it may be.
NOT_IN_NAMES, NAME_LENGTH = re.compile(r"[^A-Za-z0-9_.-]"), 128


def artifact_of(model: Model, workdir: Path, name: str, summary: Mapping[str, Any]) -> dict:
    """Returns the artifact that opens like the run folder `workdir` with the checkpoint `model`.

    `files` has paths by names in the artifact, `contents` JSON objects.
    """
    checkpoint = [path for path in model.folder.rglob("*") if path.is_file()]
    paths = [*(workdir / name for name in FILES), *checkpoint]
    return {
        "type": TYPE,
        "name": NOT_IN_NAMES.sub("_", name)[:NAME_LENGTH],
        "aliases": model.aliases,
        "metadata": {
            "step": model.step,
            "val/loss": model.val_loss,
            "num_params": summary.get("num_params"),
        },
        "files": {path.relative_to(workdir).as_posix(): str(path.resolve()) for path in paths},
        "contents": {run_folder.ENVIRONMENT: sent_environment(workdir)},
    }


def sent_environment(workdir: Path) -> dict[str, Any]:
    """Returns what the run folder says of this process: versions, device, the text's sha256."""
    path = workdir / run_folder.ENVIRONMENT
    content = run_folder.read_object(path) if path.exists() else {}
    return {key: value for key, value in content.items() if key not in NOT_SENT}


def is_address(workdir: str | Path) -> bool:
    """Returns True for a model in W&B, False for a folder."""
    return str(workdir).startswith(PREFIX)


def local_folder(workdir: str | Path) -> Path:
    """Returns the folder `workdir`; of a model in W&B, that of its files, downloaded if need be.

    Raises UserError for an address of another form, and if W&B does not give the model.
    """
    address = str(workdir)
    if not is_address(address):
        return Path(workdir).expanduser()
    if not ADDRESS.fullmatch(address):
        raise UserError(
            f"--workdir={address}: expected {PREFIX}ENTITY/PROJECT/NAME:ALIAS, the alias best, "
            "latest, or a version such as v0"
        )
    with server.calls(f"--workdir={address}: W&B did not give the model"):
        return _download(address)


def _download(address: str) -> Path:
    import wandb

    try:
        artifact = wandb.Api().artifact(address.removeprefix(PREFIX))
    except wandb.errors.CommError as error:
        if not isinstance(error.exc, ValueError):
            raise
        raise UserError(
            f"--workdir={address}: W&B shows you no such model ({error.exc}): expected the name of "
            "a run with --config.tracking.log_model, and one of its aliases"
        ) from None
    lacks = {run_folder.CONFIG, run_folder.TOKENIZER} - set(artifact.manifest.entries)
    if artifact.type != TYPE or lacks:
        what = f"it has no {min(lacks)}" if lacks else f"its type is {artifact.type!r}"
        raise UserError(
            f"--workdir={address} is not the model of a run ({what}): expected an artifact that "
            "--config.tracking.log_model made"
        )
    cache = process.cache_dir() / "models"
    folder = cache / artifact.digest
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            new = Path(temporary, "new")
            artifact.download(root=str(new), skip_cache=True)
            artifact.verify(root=str(new))
            new.rename(folder)
        print(f"{address}: downloaded to {folder}", file=sys.stderr)
    return folder
