"""Files of a text: those that a path names, and what a folder has besides."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from input_pipeline import documents
from input_pipeline.text_files import unreadable
from runtime.errors import UserError

SUFFIX = ".txt"


class Found(NamedTuple):
    """Files of a text, in the order in which they are read, and the names that were left out."""

    files: list[Path]
    skipped: list[str]


def find(
    path: str,
    key: str,
    field: str,
    apart: Sequence[Path] = (),
    takes: Callable[[Path], bool] | None = None,
) -> Found:
    """Returns the files that `path` names, the value of `key`. Raises UserError for none.

    `path` is a file, a folder, a glob of them, or several of these with commas between. Of a folder
    the .txt files are read, and those of records if they have a `field`, or those that `takes`
    accepts; names that begin with a dot are left out, and links are followed. A file is read once,
    and none that is also in `apart`.
    """
    files: dict[Path, None] = {}
    skipped: list[str] = []
    for one in split(path, key):
        if os.path.isdir(one):
            inside, others = _in_folder(one, key, field, takes)
            skipped += others
        else:
            inside = [one]
        files |= dict.fromkeys(inside)
    closed = {os.path.realpath(file) for file in apart}
    taken = [file for file in files if os.path.realpath(file) not in closed]
    skipped += [f"{file.name} (validation)" for file in files if file not in taken]
    if not taken:
        raise UserError(f"{key}={path}: expected a file" + " that is not validation" * bool(files))
    return Found(taken, skipped)


def split(path: str, key: str) -> Iterator[Path]:
    """Yields what the comma-separated names in `path` are: existing ones, or matches of a glob.

    A comma within the name of a file that exists does not separate.
    """
    words = path.split(",")
    while words:
        for count in range(len(words), 0, -1):
            if found := _named(",".join(words[:count])):
                break
        name = words[0].strip()
        if name and not found:
            if "*" in name or "?" in name:
                hint = "; a folder is read with all below it" * ("**" in name)
                raise UserError(f"{key}={path}: {name} matches no file{hint}")
            found = [Path(name)]  # Opening it says why it can't be read.
        yield from found
        words = words[count:]


def _named(name: str) -> list[Path]:
    # No shell expands ~ after --config.data.path=, nor a glob in quotes.
    name = os.path.expanduser(name.strip())
    if not name or os.path.lexists(name):
        return [Path(name)] if name else []
    return sorted(map(Path, glob.glob(name))) if glob.has_magic(name) and "**" not in name else []


def _in_folder(folder: Path, key: str, field: str, takes: Callable[[Path], bool] | None) -> Found:
    files, skipped, records = [], [], False
    for file, is_folder in _below(folder, frozenset()):
        is_record = not is_folder and documents.has_records(file)
        records |= is_record
        is_text = file.suffix.lower() == SUFFIX or (field and is_record)
        is_text = takes(file) if takes else is_text
        if is_text and not is_folder and not _is_hidden(file):
            files.append(file)
        else:
            skipped.append(f"{file.relative_to(folder)}{'/' * is_folder}")
    if not files:
        raise UserError(
            f"{key}={folder}: no .txt file in this folder or below it"
            + "; .jsonl and .parquet files need --config.data.field" * records
        )
    return Found(files, skipped)


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, bool]]:
    """Yields (path, is it a folder) of the files below `folder`, sorted, and of hidden folders.

    Hidden folders are not entered. `above` are the folders on the way to `folder`. Raises UserError
    for one that can't be read, and for a loop of links.
    """
    try:
        status = os.stat(folder)
        inside = [(path, path.is_dir()) for path in sorted(folder.iterdir())]
    except OSError as error:
        raise unreadable(error, folder) from None
    own = (status.st_dev, status.st_ino)
    if own in above:
        raise UserError(
            f"{folder} is a link to a folder that it is in: remove it, or name the other files"
        )
    for path, is_folder in inside:
        if is_folder and not _is_hidden(path):
            yield from _below(path, above | {own})
        else:
            yield path, is_folder


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")
