"""The data set as token ids: encoded once, then memory-mapped from a cache.

The cache lies in $XDG_CACHE_HOME (else ~/.cache) / transformers-from-scratch. A folder of it is
named after the source text's sha256 and the tokenizer, so what it holds never goes stale: another
text is another folder. It can be deleted at any time.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

import runtime
from errors import UserError
from input_pipeline import sources, text_files, tokenizers
from tracking import run_folder

_FILES = ("train.npy", "val.npy", run_folder.TOKENIZER)
# Their sha256, by name.
_INDEX = "index.json"


@dataclass(frozen=True)
class Corpus:
    """Token ids of the two splits, 1-d and of the smallest unsigned type that holds them all."""

    train: np.ndarray
    val: np.ndarray
    tokenizer: tokenizers.Tokenizer
    digest: str  # sha256 of the source text.


def load(data: ConfigDict) -> Corpus:
    """The corpus that `config.data` means, memory-mapped where the cache can be written.

    Raises UserError for a data set or a tokenizer that does not exist or can't be read.
    """
    source = sources.find(data)
    folder = runtime.cache_dir() / f"{source.digest}-{data.tokenizer}"
    cached = _read(folder, source.digest)
    if cached:
        return cached
    corpus = _encode(*source.read(), data.tokenizer, source.digest)
    try:
        _write(folder, corpus)
    except OSError:
        # A full disk or a cache that is not ours to write costs the next start a second.
        return corpus
    return _read(folder, source.digest) or corpus


def _encode(train: str, val: str, tokenizer_name: str, digest: str) -> Corpus:
    # The vocabulary is that of the whole text, as in nanoGPT: 65 characters of Tiny Shakespeare.
    tokenizer = tokenizers.build(tokenizer_name, train + val)
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    train, val = (tokenizer.encode(text).astype(dtype) for text in (train, val))
    return Corpus(train, val, tokenizer, digest)


def _read(folder: Path, digest: str) -> Corpus | None:
    """What `_write` put there; None if it is missing or damaged, to be encoded anew."""
    try:
        index = run_folder.read_json(folder / _INDEX)
        if any(text_files.digest([folder / name]) != index[name] for name in _FILES):
            return None
        train, val = (np.load(folder / name, mmap_mode="r") for name in _FILES[:2])
        return Corpus(train, val, tokenizers.load(folder / _FILES[2]), digest)
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def _write(folder: Path, corpus: Corpus) -> None:
    """Puts the whole folder in place by one rename. Raises OSError where it can't."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        np.save(new / _FILES[0], corpus.train)
        np.save(new / _FILES[1], corpus.val)
        corpus.tokenizer.save(new / _FILES[2])
        index = {name: text_files.digest([new / name]) for name in _FILES}
        run_folder.write_json(new / _INDEX, index)
        # Only a damaged one is there. Where two processes do this at once, either's is good, and
        # what one has mapped stays readable for it.
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
