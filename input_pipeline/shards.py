"""Prepared corpus: a folder of token ids in many files, which may be larger than memory.

    index.json          what each file holds: tokens, documents, sha256; and the tokenizer's name
    tokenizer.json
    train-00000.bin ... unsigned integers of the smallest of 8, 16 and 32 bits that hold the
                        vocabulary, little-endian
    train-00000.ends.bin ... the tokens up to the end of each document, as 64-bit integers
    val.bin, val.ends.bin    the held-out documents

After each document stands <|endoftext|>. `prepare.py` writes such a folder.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import run_folder
from input_pipeline import text_files, tokenizers
from input_pipeline.permutation import permuted
from runtime import process
from runtime.errors import UserError

INDEX, TOKENIZER, VAL = "index.json", "tokenizer.json", "val.bin"
ENDS = "<u8"
FORMAT = 2


class Shards:
    """Token ids of the training split, as windows of T + 1 that do not cross files.

    A window begins at each T-th token of a file, so that each token but a file's first, and its
    last few, is a target once an epoch.
    """

    is_padded = False  # Whether windows hold tokens that are no targets, as their complements.

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self._ends = functools.cache(self._count)  # Asked for at every draw.

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return sum(map(len, self.arrays))

    def num_windows(self, context_length: int) -> int:
        """Returns the number of windows in an epoch."""
        return int(self._ends(context_length)[-1])

    def drawn(self, rows: np.ndarray, context_length: int, seed: int) -> np.ndarray:
        """Returns the windows of some rows of a training, int32 [..., T+1].

        Row r is number r % `num_windows` in the order of its epoch. It depends on nothing else, so
        not on the number of processes.
        """
        return self.windows(in_order(rows, self.num_windows(context_length), seed), context_length)

    def windows(self, numbers: np.ndarray, context_length: int) -> np.ndarray:
        """Returns the windows of some numbers, int32 [..., T+1]."""
        ends = self._ends(context_length)
        files = np.searchsorted(ends, numbers.ravel(), side="right")
        begins = np.concatenate([[0], ends[:-1]])
        starts = (numbers.ravel() - begins[files]) * context_length
        taken = np.empty((numbers.size, context_length + 1), np.int32)
        for row, (file, start) in enumerate(zip(files.tolist(), starts.tolist(), strict=True)):
            taken[row] = self.arrays[file][start : start + context_length + 1]
        return taken.reshape(*numbers.shape, context_length + 1)

    def _count(self, context_length: int) -> np.ndarray:
        """Returns, for each file, the number of windows up to its end."""
        counts = [max(len(array) - 1, 0) // context_length for array in self.arrays]
        return np.cumsum(counts)


def in_order(rows: np.ndarray, num_windows: int, seed: int) -> np.ndarray:
    """Returns the window of each row of a training, in a random order in each epoch."""
    epochs, places = np.divmod(rows, num_windows)
    windows = np.empty_like(rows)
    for epoch in np.unique(epochs):
        within = epochs == epoch
        windows[within] = permuted(places[within], num_windows, seed, int(epoch))
    return windows


class Prepared(NamedTuple):
    """Prepared corpus that was opened."""

    train: list[np.ndarray]  # Token ids, a file each.
    train_ends: list[np.ndarray]  # Of the documents of each file.
    val: np.ndarray
    val_ends: np.ndarray
    tokenizer: tokenizers.Tokenizer
    digest: str  # sha256 of the index, which has those of all files.
    characters: tuple[int, int]  # Of each split.


def open_folder(path: str, tokenizer: str) -> Prepared:
    """Opens the folder `path`, prepared with the tokenizer of that name.

    Each file is compared with its sha256 once. Raises UserError for a folder that is not prepared
    or is damaged, and for another tokenizer.
    """
    if not path:
        raise UserError("--config.data.name=shards needs --config.data.path: a prepared folder")
    folder = Path(path).expanduser()
    if not (folder / INDEX).is_file():
        raise UserError(
            f"--config.data.path={path} has no {INDEX}: prepare it, by python prepare.py "
            f"--input=FILES --output={path}"
        )
    index = run_folder.read_json(folder / INDEX)
    try:
        kind, name, files = np.dtype(index["dtype"]), index["tokenizer"], index["files"]
        named = [str(file["name"]) for file in files]
        counts = {one: int(file["tokens"]) for one, file in zip(named, files, strict=True)}
        counts |= {ends_of(file["name"]): int(file["documents"]) for file in files}
        characters = (int(index["characters"]["train"]), int(index["characters"]["val"]))
        digests = {file["name"]: str(file["sha256"]) for file in files}
        digests |= {ends_of(file["name"]): str(file["ends_sha256"]) for file in files}
        is_known = index["format"] == FORMAT and all(Path(one).name == one for one in named)
    except (KeyError, TypeError, ValueError):
        is_known = False
    if not is_known:
        raise UserError(f"{folder / INDEX} is no index of prepare.py: prepare the folder again")
    if name != tokenizer:
        raise UserError(
            f"--config.data.tokenizer={tokenizer!r}: {folder} was prepared with {name!r}: set that"
        )
    kinds = {name: kind if name in named else np.dtype(ENDS) for name in counts}
    sizes = {name: count * kinds[name].itemsize for name, count in counts.items()}
    _check(folder, {**digests, TOKENIZER: str(index["tokenizer_sha256"])}, sizes)
    arrays = {
        # np.asarray drops the subclass np.memmap, whose indexing takes longer.
        name: np.asarray(np.memmap(folder / name, kinds[name], "r"))
        if count
        else np.zeros(0, kinds[name])
        for name, count in counts.items()
    }
    of_training = [name for name in named if name != VAL]
    return Prepared(
        train=[arrays[name] for name in of_training],
        train_ends=[arrays[ends_of(name)] for name in of_training],
        val=arrays[VAL],
        val_ends=arrays[ends_of(VAL)],
        tokenizer=tokenizers.load(folder / TOKENIZER),
        digest=text_files.digest([folder / INDEX]),
        characters=characters,
    )


def ends_of(name: str) -> str:
    """Returns the name of the file with the ends of the documents in the file `name`."""
    return name.removesuffix(".bin") + ".ends.bin"


def _check(folder: Path, digests: dict[str, str], sizes: dict[str, int]) -> None:
    """Raises UserError unless all files are as they were written, and have `sizes` in bytes.

    A file of the size and time that it had when it was last compared is not read again.
    """
    memory = process.cache_dir() / f"shards-{text_files.digest([folder / INDEX])}.json"
    try:
        known: dict[str, Any] = run_folder.read_json(memory)
    except UserError:
        known = {}
    seen = {}
    for name, sha256 in digests.items():
        try:
            status = (folder / name).stat()
        except OSError as error:
            raise text_files.unreadable(error, folder / name) from None
        if status.st_size != sizes.get(name, status.st_size):
            raise UserError(
                f"{folder / name} has {status.st_size} bytes instead of {sizes[name]}: prepare the "
                "folder again, or copy that file again"
            )
        place = f"{folder.resolve() / name}"
        seen[place] = [status.st_size, status.st_mtime_ns]
        if known.get(place) != seen[place] and text_files.digest([folder / name]) != sha256:
            raise UserError(
                f"{folder / name} has another sha256 than {INDEX} says: prepare the folder again, "
                "or copy that file again"
            )
    if seen != known:
        try:
            run_folder.write_json(memory, seen)
        except OSError:
            return  # It is compared again at the next start.
