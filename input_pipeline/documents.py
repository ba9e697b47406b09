"""Text of files: plain ones, and a field of the records in .jsonl and .parquet files.

Between two files, and between two records, is a line end or the separator of documents.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from input_pipeline import text_files
from runtime.errors import UserError

JSON_LINES, PARQUET = (".jsonl", ".ndjson"), ".parquet"
# Records of a Parquet file that are read at a time.
BATCH = 256


def has_records(path: Path) -> bool:
    """Returns True for a file of records, by its ending."""
    return path.suffix.lower() in (*JSON_LINES, PARQUET)


def pieces(files: list[Path], field: str, separator: str = "") -> Iterator[str]:
    """Yields the text of the files and records, with `separator`, or else a line end, between them.

    Raises UserError for a file that can't be read as text.
    """
    return _joined(
        (
            _batched((text for _, (text,) in records(path, {"field": field})), separator)
            if has_records(path)
            else text_files.pieces(path)
            for path in files
        ),
        separator,
    )


def digest(files: list[Path], field: str) -> str:
    """Returns the sha256 of plain text, of the files' bytes and the field's name if some differ."""
    sha256 = hashlib.sha256()
    for are_records, group in itertools.groupby(files, has_records):
        if are_records:  # Begun by a NUL, which no text contains.
            for path in group:
                sha256.update(f"\0{field}\0{text_files.digest([path])}".encode())
        else:
            for block in text_files.blocks(list(group)):
                sha256.update(block.content)
    return sha256.hexdigest()


def _joined(texts: Iterable[Iterable[str]], separator: str) -> Iterator[str]:
    """Yields texts, each in pieces, with `separator` between two that are not empty.

    Without one, with a line end after each that lacks it but the last.
    """
    between = ""
    for text in texts:
        begins = True
        for piece in filter(None, text):
            if begins and between:
                yield between
            yield piece
            begins, ends_line = False, piece.endswith(("\n", "\r"))
            between = separator or "\n" * (not ends_line)


def _batched(records: Iterable[str], separator: str) -> Iterator[str]:
    """Yields the joined texts of records, many in a piece."""
    batch, size = [], 0
    for text in _joined(([record] for record in records), separator):
        batch.append(text)
        size += len(text)
        if size >= text_files.PIECE:
            yield "".join(batch)
            batch, size = [], 0
    yield "".join(batch)


def records(path: Path, fields: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each record's place and its texts in `fields`, which are {key of config.data: field}.

    Raises UserError that names the first bad record.
    """
    for where, record in any_records(path, list(fields.values())):
        for key, field in fields.items():
            if field not in record:
                what = f"has no field {field!r}" if field else "has records"
                raise UserError(
                    f"{where} {what}: set --config.data.{key} (--{key} of evaluate.py) to one of "
                    f"{', '.join(map(repr, record))}"
                )
            if not is_text(text := record[field]):
                raise UserError(f"{where}: its field {field!r} is {text!r:.40}, expected a text")
        yield where, [record[field] for field in fields.values()]


def any_records(path: Path, fields: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each record's place and itself, of Parquet files its `fields` alone.

    Raises UserError for a file that can't be read, and for a line that is no JSON object.
    """
    read = rows if path.suffix.lower() == PARQUET else _json_lines
    return read(path, fields)


def is_text(value: Any) -> bool:
    """Returns True for a string as a text file may hold: no NUL, no half of a pair of UTF-16."""
    try:
        return isinstance(value, str) and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _json_lines(path: Path, fields: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines(text_files.pieces(path)), 1):
        where = f"{path}, line {number}"
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where} is no JSON object: {error}") from None
            if not isinstance(record, dict):
                raise UserError(f"{where} is no JSON object: {line:.40}")
            yield where, record


def lines(text: Iterable[str]) -> Iterator[str]:
    """Yields the lines of a text in pieces; JSON may have the other line ends in its strings."""
    rest = ""
    for piece in text:
        *lines, rest = (rest + piece).split("\n")
        yield from lines
    yield rest


def rows(path: Path, fields: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each row's place and its `fields`; without one of them, the names of all.

    Raises UserError for a file that can't be read.
    """
    import pyarrow.parquet  # Imported here because it takes as long as a short run's set-up.

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if not set(fields) <= set(file.schema_arrow.names):
                yield str(path), dict.fromkeys(file.schema_arrow.names)
            numbers = itertools.count(1)
            for batch in file.iter_batches(BATCH, columns=fields):
                for record in batch.to_pylist():
                    yield f"{path}, row {next(numbers)}", record
    except (pyarrow.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path} can't be read as Parquet: {said}") from None
