"""The run folder: the files that a run leaves behind, and the only way in and out of them.

    config.json        the whole config, nested as in experiments/default.py
    environment.json   code version, library versions, device (an allow-list, never os.environ)
    tokenizer.json     what turns text into this model's tokens and back
    metrics.jsonl      one line a measured step: the record that every comparison is made from
    samples.jsonl      one line a generated text: step, prompt, text
    summary.json       the last and the best of the metrics, num_params, status
    checkpoints/       see checkpoints/
    diverged/          what is left of a run that diverged: see training/divergence.py
    wandb/             W&B's own files
    sweep.json         which sweep the run belongs to and what it was given, if it does
    wandb.json         the id of the W&B run that holds this record, for a resumed run to go on in
    .lock              held by the process that works in the folder, and its number

Whole files are written under a temporary name, flushed to the disk and renamed, so that a reader
sees the old one or the new one. A line is one write to a file opened for appending, so a process
that dies leaves at most one unfinished line, which readers drop.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from runtime.errors import UserError
from runtime.files import TEMPORARY, replacing

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
TOKENIZER = "tokenizer.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
SWEEP = "sweep.json"
WANDB = "wandb.json"
DIVERGED = "diverged"
LOCK = ".lock"


def remove_temporary(folder: Path) -> None:
    """Removes what a process that was killed left half-written in `folder`."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def is_hidden(path: Path) -> bool:
    """Whether a file in a run folder is none of the run's own: a lock, or half-written."""
    return path.name == LOCK or (path.name.startswith(".") and path.suffix == TEMPORARY)


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` by `content` as JSON, whole or not at all."""
    with replacing(path) as file:
        file.write(_as_json(content, indent=2) + b"\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: {str(path.parent)!r} is not a run folder, or its run has "
            "not come so far"
        ) from None
    # A file that was made to be deep exceeds what Python nests.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError if it is missing, or holds anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} can't be read: expected a JSON object, not {content!r:.40}")
    return content


def append_line(path: Path, content: dict) -> None:
    """Adds one JSON object as a line of its own."""
    with open(path, "ab") as file:
        file.write(_as_json(content) + b"\n")


def read_lines(path: Path) -> Iterator[dict]:
    """The objects of a JSON-lines file, oldest first; none if it does not exist."""
    if not path.exists():
        return
    # As bytes: the last line may end in the middle of a character.
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def set_aside_after(path: Path, step: int) -> None:
    """Moves the lines past `step` to `<name>.discarded`, and an unfinished line away.

    A resumed run measures these steps again; each step is to stand in the record once. Of a line
    that a power cut has spoiled, and what follows it, nothing is kept: it is past `step`, for what
    is not was on the disk before the checkpoint was.
    """
    if not path.exists():
        return
    lines: list[dict] = []
    with contextlib.suppress(ValueError):
        lines.extend(read_lines(path))
    for line in lines:
        if line["step"] > step:
            append_line(path.with_name(path.name + ".discarded"), line)
    with replacing(path) as file:
        for line in lines:
            if line["step"] <= step:
                file.write(_as_json(line) + b"\n")


def lock(folder: Path, what: str) -> IO[str]:
    """Takes the existing `folder` for this process, for as long as the file it returns is open.

    The system lets go of it when the process ends, however that happens, so a lock that is left
    over holds nobody up. `what` says what it is that can't be done twice at a time.

    Raises UserError, naming the other process, if there is one, or if the folder can't be written.
    """
    try:
        file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - held by the caller
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir={folder}: process {_holder(file)} {what} already; wait for it, or name "
                "another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            print(f"warning: {folder} can't be locked ({error.strerror})", file=sys.stderr)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file
    except OSError as error:
        raise UserError(f"--workdir={folder} can't be written: {error}") from None


def _holder(file: IO[str]) -> str:
    """The number of the process that holds a lock; it may be about to write it down."""
    for _ in range(20):
        file.seek(0)
        if holder := file.read().strip():
            return holder
        time.sleep(0.01)
    return "unknown"


def flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """Dotted keys: {"train": {"num_steps": 1}} as {"train.num_steps": 1}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _as_json(content: Any, indent: int | None = None) -> bytes:
    # Half of a surrogate pair, from a name that is not UTF-8, has no bytes, but an escape.
    text = json.dumps(finite(content), indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def finite(content: Any) -> Any:
    """`content` with NaN and infinities as null: JSON has no other word for them."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
