"""The start of a run in its folder: may it be written, is it the same run, and its first files."""

import contextlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flax
import jax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from ml_collections import ConfigDict

import run_folder
from checkpoints import pretrained
from checkpoints.manager import Checkpoints, Restored
from experiments import default
from input_pipeline import batches, tokenizers
from input_pipeline.corpus import Corpus
from input_pipeline.pairs import Pairs, Records
from input_pipeline.shards import Shards
from input_pipeline.tokenizers import TrainedTokenizer
from runtime import devices, process
from runtime.errors import UserError
from tracking import artifact, sweep
from training.early_stopping import EarlyStopping

# Config keys that may differ between a run and its resumption; another would make it another run.
MAY_CHANGE = (
    "checkpoint.",
    "mesh.",
    "tracking.",
    "sample.",
    "eval.",
    "train.num_steps",
    "train.flops",
    "train.log_every_steps",
    "train.log_norms_every_steps",
    "train.measure_peak",
    "train.steps_per_dispatch",
    "train.max_skipped_updates",
    "data.path",
    "data.val_path",
)
# A resumed run equals the uninterrupted one bit for bit where two processes agree on all of these.
VERSIONS = (
    "git_commit",
    "git_dirty",
    "python",
    "jax",
    "flax",
    "device",
    "num_devices",
    "num_cpus",
    "mesh",
    "precision",
)
# Names in the line that says what was left out of a text.
SKIPPED_SHOWN = 4


def check_folder(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError unless `workdir` is free, or holds the run that is to be resumed."""
    if artifact.is_address(workdir):
        raise UserError(
            f"--workdir={workdir} names a model in W&B, which can only be read: name a folder"
        )
    try:
        is_file = workdir.exists() and not workdir.is_dir()
    except OSError as error:  # A name that is too long, a folder above it that is closed to us.
        raise UserError(f"--workdir={workdir} can't be read: {error.strerror}") from None
    if is_file:
        raise UserError(f"--workdir={workdir} is a file; a run needs a folder")
    if not (workdir / run_folder.CONFIG).exists():
        # A run that was killed before it wrote its config has left at most a temporary file.
        inside = workdir.iterdir() if workdir.is_dir() else ()
        if any(not run_folder.is_hidden(path) for path in inside):
            raise UserError(
                f"--workdir={workdir} holds files but no run: name a new or an empty folder"
            )
        return
    if not config.checkpoint.resume:
        raise UserError(
            f"--workdir={workdir} already holds a run: name another folder, or resume that "
            "run with --config.checkpoint.resume=true"
        )
    # A key that the run's config lacks is newer than the run, and was neutral.
    before = _flat(default.get_config()) | run_folder.flatten(
        run_folder.read_object(workdir / run_folder.CONFIG)
    )
    now = _flat(config)
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if changed:
        raise UserError(
            f"--workdir={workdir} holds a run with another config ({'; '.join(changed)}): "
            "resume with its own values, or name another folder"
        )


def data_config(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns `config.data`; a run that has begun has its tokenizer in its own folder."""
    is_begun = (workdir / run_folder.TOKENIZER).exists()
    if not (is_begun and config.data.tokenizer.startswith(tokenizers.FOLDER_PREFIX)):
        return config.data
    data = ConfigDict(config.data.to_dict())
    data.tokenizer = f"{tokenizers.FOLDER_PREFIX}{workdir}"
    return data.lock()


def check_text(data: Corpus, workdir: Path) -> None:
    """Raises UserError if `workdir` holds a run on another text, or with other learned tokens.

    Two versions of a tokenizer's library may learn different tokens from one text.
    """
    if not (before := _last_environment(workdir)):
        return
    if (digest := before.get("text_sha256")) != data.digest:
        raise UserError(
            f"{workdir} was trained on a text with sha256 {digest}, and now it is {data.digest}: "
            "put that text back, or train on this one in another folder"
        )
    kept, made = workdir / run_folder.TOKENIZER, data.tokenizer
    if (
        isinstance(made, TrainedTokenizer)
        and kept.exists()
        and getattr(tokenizers.load(kept), "vocabulary", None) != made.vocabulary
    ):
        raise UserError(
            f"{workdir} was trained with other tokens of {made.name!r} than this text gives now: "
            "resume where they were learned, or with the library that learned them"
        )


def first_weights(
    init_from: str, model: nn.Module, tokenizer: tokenizers.Tokenizer, workdir: Path
) -> pretrained.Weights | None:
    """Returns the pretrained weights that a run without a checkpoint begins with; None for none.

    Raises UserError if they do not fit, or are others than the run in `workdir` began with.
    """
    if not init_from or Checkpoints(workdir).steps():
        return None
    weights = pretrained.load(init_from, model, tokenizer)
    before = _last_environment(workdir)
    if before and (digest := before.get("weights_sha256")) != weights.digest:
        raise UserError(
            f"{workdir} began with weights of sha256 {digest}, and now "
            f"--config.model.init_from has {weights.digest}: put those back, "
            "or begin with these in another folder"
        )
    return weights


@contextlib.contextmanager
def locked(config: ConfigDict, workdir: Path) -> Iterator[None]:
    """Creates the run folder, if need be, and locks it for this process as long as the block lasts.

    Raises UserError if it can't be written, if another process trains in it, or as `check_folder`
    does: another process may have begun a run since that was called.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} can't be written: {error}") from None
    with run_folder.lock(workdir, "trains in it"):
        run_folder.remove_temporary(workdir)
        check_folder(config, workdir)
        yield


def check_steps(train: ConfigDict, workdir: Path) -> None:
    """Raises UserError if the run has made more steps than the config has now.

    A budget of FLOPs may be some steps more or less with another version of XLA.
    """
    step = max(Checkpoints(workdir).steps(), default=0)
    if step > train.num_steps and not train.flops:
        raise UserError(
            f"--config.train.num_steps={train.num_steps}: the run in {workdir} has made {step} "
            f"steps: expected {step} or more, or another --workdir"
        )


def describe_finished(workdir: Path, step: int | None, config: ConfigDict) -> str:
    """Returns how a run saved at `step` has ended, "" if it has to go on.

    It made all its steps, or stopped early, and wrote its summary: it may have been killed before.
    """
    if step is None or not (workdir / run_folder.SUMMARY).exists():
        return ""
    if run_folder.read_object(workdir / run_folder.SUMMARY).get("status") != "done":
        return ""
    if step >= config.train.num_steps:
        return f"finished at step {step} already"
    lines = run_folder.read_lines(workdir / run_folder.METRICS)
    reason = EarlyStopping(config.eval, lines).reason
    more = "to continue, raise --config.eval.patience, or set it to 0"
    return f"stopped early at step {step} already: {reason}; {more}" if reason else ""


def restore(checkpoints: Checkpoints, state: TrainState, max_skipped: int) -> Restored | None:
    """Returns the newest checkpoint's state, sharded like `state`; None if there is none.

    Raises UserError if the run can't be resumed with this config.
    """
    restored = checkpoints.restore(state)
    if restored is None:
        return None
    if (skipped := restored.progress["skipped"]) > max_skipped:
        raise UserError(
            f"--config.train.max_skipped_updates={max_skipped}: expected {skipped} or more, "
            "for this run has skipped so many"
        )
    return restored


def newest_metrics(workdir: Path) -> dict[str, float]:
    """Returns the newest value of each metric in the record."""
    newest: dict[str, float] = {}
    for line in run_folder.read_lines(workdir / run_folder.METRICS):
        newest |= line
    return newest


def write_start(
    config: ConfigDict,
    workdir: Path,
    data: Corpus,
    *,
    prompt: str,
    num_params: int,
    precision: str,
    mesh: Mesh,
    weights_digest: str | None,
    resumed: bool,
) -> list[str]:
    """Writes config.json, environment.json, tokenizer.json, and sweep.json for the run of a sweep.

    Returns the first lines to print: what trains where, and what may surprise about this process.
    Raises OSError if the files can't be written.
    """
    before = _last_environment(workdir)
    now = environment(data, precision=precision, mesh=mesh)
    if weights_digest or "weights_sha256" in before:
        now["weights_sha256"] = weights_digest or before["weights_sha256"]
    if before:
        now["before"] = [*before.pop("before", []), before]
    # First, for a folder with a config holds a run.
    run_folder.write_json(workdir / run_folder.CONFIG, json.loads(config.to_json()))
    run_folder.write_json(workdir / run_folder.ENVIRONMENT, now)
    kept = workdir / run_folder.TOKENIZER
    # Checkpoints know the tokenizer by its bytes; another version of its library may write others.
    if not (isinstance(data.tokenizer, TrainedTokenizer) and kept.exists()):
        data.tokenizer.save(kept)
    if swept := sweep.current():
        run_folder.write_json(workdir / run_folder.SWEEP, swept.as_json())
    notes = [headline(config, data, num_params, precision, mesh)]
    if data.found:
        notes.append(text_line(data))
    if isinstance(data.train, Pairs) and isinstance(data.val, Pairs):
        notes.append(pairs_line(data.train, data.val, config.model.context_length))
    if isinstance(data.train, Shards) and data.train.is_padded:
        notes.append(padding_line(data.train, config.model.context_length))
    notes.append(f"run folder: {workdir}")
    if prompt != config.sample.prompt:
        if isinstance(data.val, Pairs):
            reason = "samples continue the first prompt of the validation split,"
        else:
            reason = f"this text has no {config.sample.prompt!r}, so samples continue"
        notes.append(f"sample.prompt: {reason} {prompt!r:.100}")
    if precision != config.train.precision:
        notes.append("This processor has no products of bfloat16: training in float32.")
    changes = [
        f"{name} was {before[name]} and is {now[name]}"
        for name in VERSIONS
        if name in before and before[name] != now[name]
    ]
    if resumed and changes:
        changed = "; ".join(changes)
        notes.append(f"warning: another process began this run, the rest may differ: {changed}")
    return notes


def padding_line(train: Shards, context_length: int) -> str:
    """Returns how many windows of one document each there are, and how much of them is padding."""
    count = train.num_windows(context_length)
    padding = max(0.0, 1 - len(train) / (count * context_length))
    return f"windows of one document each: {count:,}, {padding:.0%} of their places are padding"


def headline(config: ConfigDict, data: Corpus, num_params: int, precision: str, mesh: Mesh) -> str:
    """Returns what is about to train: the model, its size, the device, the text."""
    device = device_line(mesh)
    unit = "characters" if config.data.tokenizer == "char" else "tokens"
    (num_train, _), (num_val, num_targets) = batches.size(data.train), batches.size(data.val)
    return " · ".join(
        (
            config.tracking.experiment or config.model.name,
            f"{num_params:,} parameters",
            f"{device}, {precision}",
            f"{num_train + num_val:,} {unit}, {num_targets:,} of them to predict",
        )
    )


def device_line(mesh: Mesh) -> str:
    """Returns the devices of `mesh`, as "8 x gpu (data 4, fsdp 2)", and how many it leaves idle."""
    line = f"{mesh.size} x " * (mesh.size > 1) + mesh.devices.flat[0].platform
    sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    if mesh.shape["data"] < mesh.size:
        line += f" ({sizes})"
    idle = len(devices.found()) - mesh.size
    return line + f", {idle} more idle" * (idle > 0)


def text_line(data: Corpus) -> str:
    """Returns how much text was read from how many files, and which names were left out."""
    whole = (sum(data.characters),) if len(data.found) == 1 else data.characters
    parts = []
    for name, found, characters in zip(("text", "validation"), data.found, whole, strict=False):
        count = len(found.files)
        parts.append(f"{name}: {count:,} file{'s' * (count != 1)}, {characters:,} characters")
    skipped = [name for found in data.found for name in found.skipped]
    more = len(skipped) - SKIPPED_SHOWN
    if skipped:
        named = ", ".join(skipped[:SKIPPED_SHOWN])
        parts.append(f"skipped: {named}" + f" and {more:,} more" * (more > 0))
    return "; ".join(parts)


def pairs_line(train: Pairs, val: Pairs, context_length: int) -> str:
    """Returns how many pairs there are, and how many were left out of each split."""
    if isinstance(val, Records):
        return (
            f"windows: {len(train):,} to train on, {len(val):,} to validate on; no model's loss is "
            f"below {val.floor:.3f} nats, but by chance"
        )
    line = f"pairs: {len(train):,} to train on, {len(val):,} to validate on"
    if train.left_out or val.left_out:
        line += (
            f"; {train.left_out:,} and {val.left_out:,} left out, of more than "
            f"{context_length + 1} tokens (model.context_length + 1)"
        )
    return line


def environment(data: Corpus, *, precision: str, mesh: Mesh) -> dict:
    """Returns what a run's numbers depend on besides its config; never environment variables."""
    changes = _git("status", "--porcelain")
    device = mesh.devices.flat[0]
    # Of a made text alone: the lowest loss on its validation split that a model can reach.
    floor = {"val_floor": data.val.floor} if isinstance(data.val, Records) else {}
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "device": process.processor_name() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "num_devices": mesh.size,
        # A string: W&B would show a nested value under other names than the config's.
        "mesh": ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
        "num_cpus": process.num_cores(),
        "precision": precision,
        "text_sha256": data.digest,
        **floor,
    }


def _last_environment(workdir: Path) -> dict[str, Any]:
    """Returns the environment of the last process that trained in `workdir`; {} if none has."""
    path = workdir / run_folder.ENVIRONMENT
    return run_folder.read_object(path) if path.exists() else {}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # A copy without git or without history.


def _flat(config: ConfigDict) -> dict:
    """Returns the config by dotted keys, as config.json has it: lists for tuples."""
    return run_folder.flatten(json.loads(config.to_json()))
