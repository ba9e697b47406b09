"""Run folder: names of the files of a run, and the functions that read and write them.

    config.json        the whole config, nested as in experiments/default.py
    environment.json   code version, library versions, device (an allow-list, never os.environ)
    tokenizer.json     the tokenizer
    metrics.jsonl      one line a measured step: the record, which every comparison reads
    samples.jsonl      one line a generated text: step, prompt, text
    inside.json        what look_inside.py measured in its model, if it was run
    summary.json       the last and the best metrics, num_params, status
    checkpoints/       see checkpoints/
    snapshots/         the parameters at a few steps: see checkpoints/snapshots.py
    diverged/          the state and batch of a run that diverged: see training/divergence.py
    wandb/             W&B's own files
    tensorboard/       event files for TensorBoard, if they are asked for
    sweep.json         the sweep that the run belongs to, if any, and its parameters
    wandb.json         the id of the W&B run that mirrors this record, which a resumed run
                       continues, and its address on the server
    .lock              locked by the process that works in the folder; holds its process id

Atomic writes (runtime/files.py) let a reader see the old file or the new one. A line is one write
to a file opened for appending: a process that dies leaves at most one unfinished line, which
readers drop.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from runtime.errors import UserError
from runtime.files import TEMPORARY, atomic_write

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
TOKENIZER = "tokenizer.json"
METRICS = "metrics.jsonl"
# In its lines; train/mfu on devices whose peak is known, train/skipped_updates if any may be.
METRIC_NAMES = (
    *("train/loss", "train/grad_norm", "train/learning_rate", "train/tokens_per_second"),
    *("train/mfu", "train/skipped_updates", "val/loss", "val/perplexity", "val/bits_per_byte"),
    *("step", "tokens_seen", "train_flops", "seconds"),
)
NORMS = "norms/"  # And this before the names of layers: training/norms.py.
SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
SNAPSHOTS = "snapshots"
SWEEP = "sweep.json"
WANDB = "wandb.json"
TENSORBOARD = "tensorboard"
DIVERGED = "diverged"
PLAYGROUND = "playground.html"  # In a folder of runs: their models in a page.
INSIDE = "inside.json"
LOCK = ".lock"


def remove_temporary(folder: Path) -> None:
    """Removes the temporary files that a killed process left in `folder`."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(parent: Path, name: str) -> Iterator[Path]:
    """Creates `parent/name-<time>` for the block, `-2` after it if another process was faster.

    A folder that is still empty at the end is removed. Raises UserError if it can't be written.
    """
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = parent / (f"{stem}-{number}" if number > 1 else stem)
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError as error:
            if not parent.is_dir():
                raise UserError(f"{parent} is no folder: name one with --workdir") from error
        except OSError as error:
            raise UserError(
                f"{folder} can't be written ({error.strerror}): name a folder with --workdir"
            ) from None
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # It holds a run.
            folder.rmdir()


def is_hidden(path: Path) -> bool:
    """Returns True for a lock or a temporary file."""
    return path.name == LOCK or (path.name.startswith(".") and path.suffix == TEMPORARY)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as JSON, atomically."""
    with atomic_write(path) as file:
        file.write(_as_json(content, indent=2) + b"\n")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises UserError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: {str(path.parent)!r} is not a run folder, or its run has "
            "not written it yet"
        ) from None
    # RecursionError: a hostile file nests too deep.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises UserError if there is none."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} can't be read: expected a JSON object, not {content!r:.40}")
    return content


def append_line(path: Path, content: dict) -> None:
    """Appends a JSON object as one line."""
    with open(path, "ab") as file:
        file.write(_as_json(content) + b"\n")


def read_lines(path: Path) -> Iterator[dict]:
    """Yields the objects of a JSON-lines file, oldest first; none if it does not exist."""
    if not path.exists():
        return
    # As bytes: the last line may end in the middle of a character.
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                # json.loads(bytes) would look for the encoding of each line.
                yield json.loads(line.decode("utf-8", "surrogatepass"))


def set_aside_after(path: Path, step: int) -> None:
    """Moves the lines after `step` to `<name>.discarded` and drops an unfinished line.

    A resumed run measures these steps again, and the record has each step once. A line that a
    power cut has corrupted is dropped with all lines after it: they are later than `step`, whose
    lines were on the disk before its checkpoint was.
    """
    if not path.exists():
        return
    lines: list[dict] = []
    with contextlib.suppress(ValueError):
        lines.extend(read_lines(path))
    for line in lines:
        if line["step"] > step:
            append_line(path.with_name(path.name + ".discarded"), line)
    with atomic_write(path) as file:
        for line in lines:
            if line["step"] <= step:
                file.write(_as_json(line) + b"\n")


def lock(folder: Path, what: str, flag: str = "--workdir") -> IO[str]:
    """Locks the existing `folder` for this process until the returned file is closed.

    The system releases the lock when the process ends, killed or not. `what` names the activity in
    the error, "process 123 `what` already", and `flag` the folder.

    Raises UserError if another process holds the lock, or if the folder can't be written.
    """
    try:
        file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - held by the caller
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{flag}={folder}: process {_holder(file)} {what} already; wait for it, or name "
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
        raise UserError(f"{flag}={folder} can't be written: {error}") from None


def _holder(file: IO[str]) -> str:
    """Returns the id of the process that holds a lock, which may not have written it yet."""
    for _ in range(20):
        file.seek(0)
        if holder := file.read().strip():
            return holder
        time.sleep(0.01)
    return "unknown"


def flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """Returns {"train": {"num_steps": 1}} as {"train.num_steps": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        is_group = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if is_group else {prefix + key: value}
    return flat


def _as_json(content: Any, indent: int | None = None) -> bytes:
    # A lone surrogate, from a file name that is not UTF-8, is written as its escape.
    text = json.dumps(finite(content), indent=indent, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def finite(content: Any) -> Any:
    """Returns `content` with NaN and infinities as None, for JSON has neither."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
