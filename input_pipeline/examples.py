"""Examples that test a model by the probability of continuations, from files.

Last words, as of LAMBADA (Paperno et al., 2016): a record, or a line, has a passage; its last word
is to be predicted. Choices, as of HellaSwag (Zellers et al., 2019): a record has the beginning
`ctx`, several `endings`, and the number of the right one from 0 on, `label`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline import documents, text_files
from runtime.errors import UserError

CHOICE_FIELDS = ["ctx", "endings", "label"]


class Example(NamedTuple):
    """A prompt and what may follow it; of several continuations, the number of the right one."""

    where: str  # File and line, for messages.
    prompt: str
    continuations: list[str]
    answer: int = 0


def last_words(files: list[Path], field: str) -> Iterator[Example]:
    """Yields each passage without its last word, and the word with the space before it.

    Passages are the `field` of records in .jsonl and .parquet files, and the lines of others.
    Raises UserError for a file that can't be read, and for a passage of a single word.
    """
    for path in files:
        for where, passage in _passages(path, field):
            found = re.fullmatch(r"(.*\S)(\s+\S+)\s*", passage, re.DOTALL)
            if not found:
                raise UserError(
                    f"{where}: expected a passage of two words or more: {passage!r:.40}"
                )
            yield Example(where, found[1], [found[2]])


def _passages(path: Path, field: str) -> Iterator[tuple[str, str]]:
    """Yields the place and the text of each passage of a file."""
    if documents.has_records(path):
        for where, (passage,) in documents.records(path, {"field": field}):
            yield where, passage
        return
    for number, line in enumerate(documents.lines(text_files.pieces(path)), 1):
        if line.strip():
            yield f"{path}, line {number}", line


def choices(files: list[Path]) -> Iterator[Example]:
    """Yields the beginning of each record, its endings with a space before them, and the right one.

    Raises UserError for a file that can't be read, and for a record that is not of that form.
    """
    for path in files:
        if not documents.has_records(path):
            raise UserError(
                f"{path}: expected .jsonl or .parquet records with {', '.join(CHOICE_FIELDS)}"
            )
        for where, record in documents.any_records(path, CHOICE_FIELDS):
            yield _choice(where, record)


def _choice(where: str, record: dict[str, Any]) -> Example:
    if missing := [name for name in CHOICE_FIELDS if name not in record]:
        raise UserError(f"{where} has no {missing[0]!r}: expected {', '.join(CHOICE_FIELDS)}")
    prompt, endings, label = (record[name] for name in CHOICE_FIELDS)
    are_texts = isinstance(endings, list) and all(map(documents.is_text, [prompt, *endings]))
    if not are_texts or len(endings) < 2 or not all(text.strip() for text in [prompt, *endings]):
        raise UserError(f"{where}: expected a text as 'ctx' and two or more as 'endings'")
    # Hugging Face's copy of HellaSwag has the label as a text.
    numbers = [*range(len(endings)), *map(str, range(len(endings)))]
    if isinstance(label, bool) or label not in numbers:
        raise UserError(
            f"{where}: its 'label' is {label!r:.40}: expected 0 to {len(endings) - 1}, the number "
            "of the right ending (test splits without labels can't be scored)"
        )
    continuations = [" " + text.strip() for text in endings]
    return Example(where, prompt.rstrip(), continuations, int(label))
