"""The run folder: the files that a run leaves behind, and the only way in and out of them.

    config.json        the whole config, nested as in experiments/default.py
    environment.json   code version, library versions, device (an allow-list, never os.environ)
    tokenizer.json     what turns text into this model's tokens and back
    metrics.jsonl      one line a measured step: the record that every comparison is made from
    samples.jsonl      one line a generated text: step, prompt, text
    summary.json       the last and the best of the metrics, num_params, status
    checkpoints/       see checkpoint.py
    wandb/             W&B's own files
    sweep.json         which sweep the run belongs to and what it was given, if it does
    wandb.json         the id of the W&B run that holds this record, for a resumed run to go on in

Whole files are written under a temporary name, flushed to the disk and renamed, so that a reader
sees the old one or the new one. A line is one write to a file opened for appending, so a process
that dies leaves at most one unfinished line, which readers drop.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from errors import UserError

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
TOKENIZER = "tokenizer.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
SWEEP = "sweep.json"
WANDB = "wandb.json"


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` by `content` as JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(_finite(content), file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: {str(path.parent)!r} is not a run folder, or its run has "
            "not come so far"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None


def append_line(path: Path, content: dict) -> None:
    """Adds one JSON object as a line of its own."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(_finite(content), ensure_ascii=False) + "\n")


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

    A resumed run measures these steps again; each step is to stand in the record once.
    """
    if not path.exists():
        return
    lines = list(read_lines(path))
    for line in lines:
        if line["step"] > step:
            append_line(path.with_name(path.name + ".discarded"), line)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            if line["step"] <= step:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """Dotted keys: {"train": {"num_steps": 1}} as {"train.num_steps": 1}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _finite(content: Any) -> Any:
    """`content` with NaN and infinities as null: JSON has no other word for them."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
