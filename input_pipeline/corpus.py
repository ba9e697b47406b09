"""Data set as token ids: encoded once, then memory-mapped from a cache.

The cache is $XDG_CACHE_HOME (or ~/.cache) / transformers-from-scratch. The name of each folder is
the source text's sha256, the tokenizer and the separator of documents, so that an entry never goes
stale. The cache can be deleted at any time.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

import run_folder
from experiments.made_texts import PREFIX as MADE
from input_pipeline import (
    made_texts,
    mixture,
    pairs,
    pretrained_tokenizer,
    shards,
    sources,
    text_files,
    text_paths,
    tokenizers,
)
from input_pipeline.batches import Split
from input_pipeline.document_windows import DocumentWindows
from input_pipeline.pairs import Pairs
from input_pipeline.shards import Shards
from input_pipeline.sources import Source
from input_pipeline.text_files import Pieces
from input_pipeline.text_paths import Found
from runtime import process
from runtime.errors import UserError

_FILES = ("train.npy", "val.npy", run_folder.TOKENIZER)
_INDEX = "index.json"  # The sha256 of each of `_FILES`, and the characters of the splits.


class Corpus(NamedTuple):
    """Token ids of the two splits: 1-d, of the smallest unsigned type that holds the vocabulary.

    Of a text of prompts and answers they are pairs, of a made text records, and those of a prepared
    corpus to train on are Shards, within documents both splits.
    """

    train: Split
    val: Split
    tokenizer: tokenizers.Tokenizer
    digest: str  # sha256 of the source text.
    characters: tuple[int, int]  # Of the source text, in each split.
    found: tuple[Found, ...]  # Files of a text of the user's own: see sources.Source.


def load(data: ConfigDict) -> Corpus:
    """Returns the corpus of `config.data`, memory-mapped if the cache can be written.

    Raises UserError for a data set or a tokenizer that does not exist or can't be read, and for a
    text that changes while it is encoded.
    """
    if data.name.startswith(MADE):
        return _made(data)
    if data.name == "shards":
        sources.refuse_keys(data, "document_separator", "field", "prompt_field", "val_path")
        return _prepared(data)
    source = sources.find(data)
    tokenizers.check_name(data.tokenizer)
    own = None
    if data.tokenizer.startswith(tokenizers.FOLDER_PREFIX):
        path = Path(data.tokenizer.removeprefix(tokenizers.FOLDER_PREFIX)).expanduser()
        own = pretrained_tokenizer.read(path)
    folder = process.cache_dir() / f"{source.digest}-{_encoding_name(data, own)}"
    corpus = _read(folder, source, data)
    if corpus:
        return corpus
    splits = source.read()
    tokenizer = own or tokenizers.build(data.tokenizer, *splits, data.document_separator)
    num_train, num_val = (sum(map(len, split())) for split in splits)
    characters = num_train, num_val
    # With a full disk or a read-only cache the tokens stay in memory, for this run alone.
    with contextlib.suppress(OSError):
        _write(folder, tokenizer, splits, data, characters)
        corpus = _read(folder, source, data)
    if corpus is None:
        encoded = (_encode(tokenizer, split, data) for split in splits)
        train, val = (_as_split(np.concatenate([*tokens]), data) for tokens in encoded)
        corpus = Corpus(train, val, tokenizer, source.digest, characters, source.found)
    if sources.find(data).digest != source.digest:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{data.path} changed while it was read: start again when it is complete")
    return corpus


def _prepared(data: ConfigDict) -> Corpus:
    """Returns the prepared corpora of the folders that `data.path` names."""
    # Empty if no path is given, which open_folder refuses.
    paths = [*map(str, text_paths.split(data.path, "--config.data.path"))] or [""]
    opened = [shards.open_folder(path, data.tokenizer) for path in paths]
    first = opened[0]
    for path, one in zip(paths, opened, strict=True):
        if one.tokenizer.digest != first.tokenizer.digest:
            raise UserError(
                f"--config.data.path={data.path}: {path} has another {data.tokenizer} than "
                f"{paths[0]}: prepare both with one tokenizer"
            )
    if data.pack:
        parts = [Shards(one.train) for one in opened]
        val: Split = np.concatenate([one.val for one in opened]) if opened[1:] else first.val
    else:
        parts = [DocumentWindows(one.train, one.train_ends) for one in opened]
        val = DocumentWindows([one.val for one in opened], [one.val_ends for one in opened])
    train, digest = parts[0], first.digest
    if opened[1:] or data.weights:
        counts = mixture.counts_of(data.weights, [len(part) for part in parts])
        train = mixture.Mixture(parts, counts)
        described = " ".join([*(one.digest for one in opened), *map(str, counts)])
        digest = hashlib.sha256(described.encode()).hexdigest()
    num_train, num_val = (sum(one.characters[split] for one in opened) for split in (0, 1))
    return Corpus(train, val, first.tokenizer, digest, (num_train, num_val), found=())


def _made(data: ConfigDict) -> Corpus:
    """Returns a made text, which is drawn faster than a cache would be read."""
    made = made_texts.find(data)
    tokenizer = tokenizers.CharTokenizer(made_texts.LETTERS)
    characters = len(made.train.tokens), len(made.val.tokens)
    return Corpus(made.train, made.val, tokenizer, made.digest, characters, ())


def _encoding_name(data: ConfigDict, own: tokenizers.Tokenizer | None) -> str:
    """Returns a name of the tokenizer and the separator for a folder; `own` is from a folder."""
    name = own.digest if own else data.tokenizer.replace(":", "-")
    if name == tokenizers.Gpt2Tokenizer.name:
        name = "gpt2-special"  # In "gpt2", <|endoftext|> was encoded as plain text.
    if separator := data.document_separator:
        name += f"-{hashlib.sha256(separator.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return name


def _encode(
    tokenizer: tokenizers.Tokenizer, split: Pieces, data: ConfigDict
) -> Iterator[np.ndarray]:
    """Yields the token ids of a split, the first ones empty, which shows the type of all."""
    are_pairs = bool(data.prompt_field)
    yield np.zeros(0, np.int32 if are_pairs else tokenizers.dtype(tokenizer))
    if are_pairs:
        yield from pairs.encode(tokenizer, split())
    else:
        yield from tokenizers.encode_pieces(tokenizer, split())


def _as_split(tokens: np.ndarray, data: ConfigDict) -> Split:
    return Pairs(tokens) if data.prompt_field else tokens


def _read(folder: Path, source: Source, data: ConfigDict) -> Corpus | None:
    """Returns the corpus that `_write` saved; None if it is missing or damaged."""
    try:
        index = run_folder.read_json(folder / _INDEX)
        if any(text_files.digest([folder / name]) != index[name] for name in _FILES):
            return None
        arrays = (np.load(folder / name, mmap_mode="r") for name in _FILES[:2])
        train, val = (_as_split(tokens, data) for tokens in arrays)
        tokenizer = tokenizers.load(folder / _FILES[2])
        num_train, num_val = index["characters"]
        characters = num_train, num_val
        return Corpus(train, val, tokenizer, source.digest, characters, source.found)
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def _write(
    folder: Path,
    tokenizer: tokenizers.Tokenizer,
    splits: tuple[Pieces, Pieces],
    data: ConfigDict,
    characters: tuple[int, int],
) -> None:
    """Writes the folder atomically: a temporary folder, then a rename. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        for name, split in zip(_FILES, splits, strict=False):
            _save(new / name, _encode(tokenizer, split, data))
        tokenizer.save(new / _FILES[2])
        index = {name: text_files.digest([new / name]) for name in _FILES}
        run_folder.write_json(new / _INDEX, {**index, "characters": characters})
        # A folder that is there is damaged, or equal and of another process; files that a process
        # has mapped stay readable for it.
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def _save(path: Path, pieces: Iterator[np.ndarray]) -> None:
    """Writes one array, given in pieces of its type, as a .npy file."""
    descr = np.lib.format.dtype_to_descr(next(pieces).dtype)

    def write_header(length: int) -> None:
        header = {"descr": descr, "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (length,)})

    with open(path, "wb") as file:
        length = 0
        write_header(length)  # NumPy pads the header, so that the final length fits.
        for piece in pieces:
            length += len(piece)
            file.write(piece.tobytes())
        file.seek(0)
        write_header(length)
