"""Data set as token ids: encoded once, then memory-mapped from a cache.

The cache is $XDG_CACHE_HOME (or ~/.cache) / transformers-from-scratch. The name of each folder is
the source text's sha256 and the tokenizer, so that an entry never goes stale. The cache can be
deleted at any time.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

import run_folder
from input_pipeline import sources, text_files, tokenizers
from input_pipeline.text_files import Pieces
from runtime import process
from runtime.errors import UserError

_FILES = ("train.npy", "val.npy", run_folder.TOKENIZER)
_INDEX = "index.json"  # The sha256 of each of `_FILES`.


class Corpus(NamedTuple):
    """Token ids of the two splits: 1-d, of the smallest unsigned type that holds the vocabulary."""

    train: np.ndarray
    val: np.ndarray
    tokenizer: tokenizers.Tokenizer
    digest: str  # sha256 of the source text.


def load(data: ConfigDict) -> Corpus:
    """Returns the corpus of `config.data`, memory-mapped if the cache can be written.

    Raises UserError for a data set or a tokenizer that does not exist or can't be read, and for a
    text that changes while it is encoded.
    """
    source = sources.find(data)
    tokenizers.check_name(data.tokenizer)
    folder = process.cache_dir() / f"{source.digest}-{data.tokenizer.replace(':', '-')}"
    corpus = _read(folder, source.digest)
    if corpus:
        return corpus
    splits = source.read()
    tokenizer = tokenizers.build(data.tokenizer, *splits)
    # With a full disk or a read-only cache the tokens stay in memory, for this run alone.
    with contextlib.suppress(OSError):
        _write(folder, tokenizer, splits)
        corpus = _read(folder, source.digest)
    if corpus is None:
        empty = np.zeros(0, tokenizers.dtype(tokenizer))
        pieces = (tokenizers.encode_pieces(tokenizer, split()) for split in splits)
        train, val = (np.concatenate([empty, *tokens]) for tokens in pieces)
        corpus = Corpus(train, val, tokenizer, source.digest)
    if sources.find(data).digest != source.digest:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{data.path} changed while it was read: start again when it is complete")
    return corpus


def _read(folder: Path, digest: str) -> Corpus | None:
    """Returns the corpus that `_write` saved; None if it is missing or damaged."""
    try:
        index = run_folder.read_json(folder / _INDEX)
        if any(text_files.digest([folder / name]) != index[name] for name in _FILES):
            return None
        train, val = (np.load(folder / name, mmap_mode="r") for name in _FILES[:2])
        return Corpus(train, val, tokenizers.load(folder / _FILES[2]), digest)
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def _write(folder: Path, tokenizer: tokenizers.Tokenizer, splits: tuple[Pieces, Pieces]) -> None:
    """Writes the folder atomically: a temporary folder, then a rename. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        for name, split in zip(_FILES, splits, strict=False):
            tokens = tokenizers.encode_pieces(tokenizer, split())
            _save(new / name, tokens, tokenizers.dtype(tokenizer))
        tokenizer.save(new / _FILES[2])
        index = {name: text_files.digest([new / name]) for name in _FILES}
        run_folder.write_json(new / _INDEX, index)
        # A folder that is there is damaged, or equal and of another process; files that a process
        # has mapped stay readable for it.
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _save(path: Path, pieces: Iterable[np.ndarray], dtype: np.dtype) -> None:
    """Writes one array, given in pieces, as a .npy file."""

    def write_header(length: int) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (length,)})

    with open(path, "wb") as file:
        length = 0
        write_header(length)  # NumPy pads the header, so that the final length fits.
        for piece in pieces:
            length += len(piece)
            file.write(piece.tobytes())
        file.seek(0)
        write_header(length)
