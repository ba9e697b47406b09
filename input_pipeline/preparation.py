"""Preparation of a corpus: from files of documents to the token ids of shards.py, by all cores.

Documents are read in order and dealt out in pieces, whose tokens become a file each. Which piece a
document is in, and whether it is held out, depends on the text alone. Each finished piece is
recorded, so a preparation that was killed goes on with the next one, to the same files.
"""

import functools
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import run_folder
from input_pipeline import raw_documents, shards, text_files, tokenizers
from input_pipeline.raw_documents import END, Document, Reader
from runtime.errors import Failed, UserError
from runtime.files import atomic_write

# Characters of a piece: a text of 40 GB becomes about a thousand files.
PIECE = 32 << 20
PIECES, REQUEST = "pieces", "request.json"
# Takes what is being done, how much of it is done, and all of it.
Progress = Callable[[str, int, int], None]


class Request(NamedTuple):
    """Input and flags of a preparation: another one can't go on with its files."""

    files: list[list[Any]]  # As `raw_documents.request` has them.
    field: str
    tokenizer: str
    val_share: float
    drop_duplicates: bool


class Counts(NamedTuple):
    """Counts of a prepared corpus."""

    tokens: int
    val_tokens: int
    documents: int
    duplicates: int
    bad: int


def prepare(
    request: Request,
    reader: Callable[[], Reader],
    output: Path,
    workers: int,
    progress: Progress = lambda doing, done, total: None,
    note: Callable[[str], None] = lambda line: None,
) -> Counts:
    """Prepares the documents of `reader` in the folder `output`, or goes on where it was killed.

    `progress` takes what is done, the bytes that have been read for it, and all of them.

    Raises UserError for another preparation in the folder, for a corpus without a document on
    either side, and as `reader` does; Failed if the folder can't be written or a worker is killed.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with run_folder.lock(output, "prepares a corpus in it", "--output"):
            if finished := begun(request, output):
                return finished
            tokenizer = _tokenizer(request, reader(), output, progress)
            reading = reader()
            duplicates = _encode_all(request, reading, output, workers, progress)
            for line in reading.shown:
                note(f"left out: {line}")
            return _complete(request, output, tokenizer, duplicates, reading.bad)
    except BrokenProcessPool:
        raise Failed(
            f"--output={output}: a worker was killed, by the system if memory is short: the same "
            "command goes on; --workers=1 takes less"
        ) from None
    except OSError as error:
        raise Failed(
            f"--output={output} can't be written ({error}): make room; the same command goes on"
        ) from None


def begun(request: Request, output: Path) -> Counts | None:
    """Returns the counts of a finished preparation; else notes the request in the folder.

    Raises UserError if the folder holds something else.
    """
    asked = request._asdict()
    if (output / shards.INDEX).exists():
        index = run_folder.read_object(output / shards.INDEX)
        if index.get("request") == asked:
            _tidy(output)
            return Counts(**index["counts"])
    elif (output / REQUEST).exists():
        if run_folder.read_object(output / REQUEST) == asked:
            return None
    elif not [path for path in output.iterdir() if path.name != run_folder.LOCK]:
        run_folder.write_json(output / REQUEST, asked)
        return None
    raise UserError(
        f"--output={output} holds another corpus, or one of other files or flags: name another "
        "folder, or remove this one"
    )


def _tokenizer(
    request: Request, reader: Reader, output: Path, progress: Progress
) -> tokenizers.Tokenizer:
    """Returns the tokenizer, a byte-pair encoding learned once from what is not held out."""
    path = output / shards.TOKENIZER
    if not path.exists():

        def train() -> Iterator[str]:
            for document in reader.documents():
                progress("learning the vocabulary", reader.position, reader.total)
                if not is_held_out(document.text, request.val_share):
                    yield document.text + END * document.ends

        tokenizers.build(request.tokenizer, train, list, END).save(path)
    return tokenizers.load(path)


def _encode_all(
    request: Request,
    reader: Reader,
    output: Path,
    workers: int,
    progress: Progress,
) -> int:
    """Writes and records every piece that is not recorded; returns the number of duplicates."""
    (output / PIECES).mkdir(exist_ok=True)
    duplicates = 0

    def kept() -> Iterator[Document]:
        nonlocal duplicates
        seen: set[bytes] = set()
        for document in reader.documents():
            if request.drop_duplicates and document.ends:
                digest = hashlib.sha256(document.text.encode()).digest()[:16]
                if digest in seen:
                    duplicates += 1
                    continue
                seen.add(digest)
            yield document

    # Spawned: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_outlive_nobody) as pool:
        running: set[Future] = set()
        try:
            for number, piece in enumerate(in_pieces(kept())):
                if not _record(output, number).exists():
                    running.add(pool.submit(encode_piece, output, number, piece, request.val_share))
                progress("preparing", reader.position, reader.total)
                # A piece more than there are workers waits, so that memory is bounded.
                while len(running) > workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            for future in running:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    progress("preparing", reader.total, reader.total)
    return duplicates


def in_pieces(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yields the documents in pieces of PIECE characters or a little more."""
    piece: list[Document] = []
    size = 0
    for document in documents:
        piece.append(document)
        size += len(document.text)
        if size >= PIECE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _outlive_nobody() -> None:
    """Ends this worker when the process that started it has ended, and leaves Ctrl-C to that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@functools.cache
def _loaded(path: Path) -> tokenizers.Tokenizer:
    return tokenizers.load(path)


def encode_piece(output: Path, number: int, piece: list[Document], val_share: float) -> None:
    """Writes the tokens of a piece, and then its record; runs in a worker."""
    tokenizer = _loaded(output / shards.TOKENIZER)
    kind = tokenizers.dtype(tokenizer)
    end = tokenizer.encode(END).astype(kind)
    splits: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    ends: dict[str, list[int]] = {"train": [], "val": []}
    lengths = dict.fromkeys(splits, 0)
    characters = dict.fromkeys(splits, 0)
    for text, is_ended in piece:
        split = "val" if is_held_out(text, val_share) else "train"
        # A long one is encoded in parts: see tokenizers.py.
        is_long = len(text) > tokenizers.MAX_PIECE
        parts = tokenizers.encode_pieces(tokenizer, [text]) if is_long else [tokenizer.encode(text)]
        parts = [*parts, *[end] * is_ended]
        splits[split] += (part.astype(kind) for part in parts)
        lengths[split] += sum(map(len, parts))
        ends[split] += [lengths[split]] * is_ended
        characters[split] += len(text)
    record: dict[str, Any] = {}
    for split, name in (("train", _shard(number)), ("val", f"{PIECES}/val-{number:05}.bin")):
        content = np.concatenate([np.zeros(0, kind), *splits[split]]).astype(kind.newbyteorder("<"))
        record[split] = {
            "name": name,
            "tokens": len(content),
            "documents": len(ends[split]),
            "characters": characters[split],
            "sha256": _write(output / name, content),
            "ends_sha256": _write(
                output / shards.ends_of(name), np.array(ends[split], shards.ENDS)
            ),
        }
    run_folder.write_json(_record(output, number), record)


def _write(path: Path, content: np.ndarray) -> str:
    """Writes an array and returns its sha256."""
    with atomic_write(path) as file:
        file.write(content.tobytes())
    return hashlib.sha256(content.tobytes()).hexdigest()


def is_held_out(text: str, share: float) -> bool:
    """Returns True for a document of the validation split: by its sha256, not by its place."""
    first = hashlib.sha256(text.encode()).digest()[:8]
    return int.from_bytes(first, "big") < share * 2**64


def _complete(
    request: Request, output: Path, tokenizer: tokenizers.Tokenizer, duplicates: int, bad: int
) -> Counts:
    """Joins the validation split, and writes the index, by which the corpus is complete."""
    records = [run_folder.read_object(path) for path in sorted((output / PIECES).glob("*.json"))]
    train = [record["train"] for record in records]
    held_out = [record["val"] for record in records]
    sums = {
        split: {
            key: sum(one[key] for one in parts) for key in ("tokens", "documents", "characters")
        }
        for split, parts in (("train", train), ("val", held_out))
    }
    held_out_share = f"--val_share={request.val_share}"
    documents = sums["train"]["documents"] + sums["val"]["documents"]
    if not documents:
        raise UserError("--input has no document that is not empty: name files that have some")
    if sums["train"]["tokens"] < 2:
        raise UserError(f"{held_out_share} holds all {documents} documents out: lower it")
    if sums["val"]["tokens"] < 2:
        raise UserError(f"{held_out_share} holds none of {documents} documents out: raise it")
    _join(output, held_out)
    counts = Counts(
        sums["train"]["tokens"],
        sums["val"]["tokens"],
        documents,
        duplicates,
        bad,
    )
    index = {
        "format": shards.FORMAT,
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": text_files.digest([output / shards.TOKENIZER]),
        "dtype": tokenizers.dtype(tokenizer).newbyteorder("<").str,
        "end": END,
        "counts": counts._asdict(),
        "characters": {split: sums[split]["characters"] for split in sums},
        "files": [
            *(one for one in train if one["tokens"]),
            {
                **sums["val"],
                "name": shards.VAL,
                "sha256": text_files.digest([output / shards.VAL]),
                "ends_sha256": text_files.digest([output / shards.ends_of(shards.VAL)]),
            },
        ],
        "request": request._asdict(),
    }
    run_folder.write_json(output / shards.INDEX, index)
    _tidy(output)
    return counts


def _tidy(output: Path) -> None:
    """Removes what a finished preparation needs no more."""
    shutil.rmtree(output / PIECES, ignore_errors=True)
    (output / REQUEST).unlink(missing_ok=True)


def _join(output: Path, held_out: list[dict[str, Any]]) -> None:
    """Writes the validation split, of what the pieces held out."""
    with atomic_write(output / shards.VAL) as file:
        for one in held_out:
            file.write((output / one["name"]).read_bytes())
    with atomic_write(output / shards.ends_of(shards.VAL)) as file:
        before = 0
        for one in held_out:
            ends = np.fromfile(output / shards.ends_of(one["name"]), shards.ENDS)
            file.write((ends + np.uint64(before)).tobytes())
            before += one["tokens"]


def _record(output: Path, number: int) -> Path:
    return output / PIECES / f"{number:05}.json"


def _shard(number: int) -> str:
    return f"train-{number:05}.bin"


def files_of(paths: str) -> list[Path]:
    """Returns the files that --input names. Raises UserError for none, or one that is missing."""
    files = raw_documents.find(paths, "--input")
    for file in files:
        try:
            if not file.stat().st_size:
                raise UserError(f"--input={paths}: {file} is empty: leave it out")
        except OSError as error:
            raise text_files.unreadable(error, file) from None
    return files
