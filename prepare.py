"""Prepares a corpus larger than memory, to train on with --config.data.name=shards.

    python prepare.py --input="texts/*.jsonl.zst" --output=corpus --tokenizer=gpt2

Killed, the same command goes on.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()


import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from absl import flags

from input_pipeline import preparation, raw_documents, tokenizers
from input_pipeline.preparation import Request
from runtime import errors
from runtime.terminal import escape_controls


def main() -> None:
    """Prepares the corpus and prints what it holds."""
    flag = flags.FLAGS
    is_folder = flag.tokenizer.startswith(tokenizers.FOLDER_PREFIX)
    if is_folder or flag.tokenizer == tokenizers.CharTokenizer.name:
        raise errors.UserError(
            f"--tokenizer={flag.tokenizer}: expected gpt2, byte, or bpe: and a number of tokens"
        )
    tokenizers.check_name(flag.tokenizer, "--tokenizer")
    files = preparation.files_of(flag.input)
    request = Request(
        raw_documents.request(files),
        flag.field,
        flag.tokenizer,
        flag.val_share,
        flag.drop_duplicates,
    )
    output = Path(flag.output).expanduser()
    reader = partial(raw_documents.Reader, files, flag.field, flag.max_bad)
    with shown_progress() as progress:
        counts = preparation.prepare(request, reader, output, flag.workers, progress, note)
    print(
        f"{output}: {counts.documents:,} documents, {counts.tokens:,} tokens to train on, "
        f"{counts.val_tokens:,} held out; left out: {counts.bad:,} bad lines, "
        f"{counts.duplicates:,} duplicates"
    )
    print(
        "next: python main.py --config=gpt2 --config.data.name=shards "
        f"--config.data.path={output} --config.data.tokenizer={flag.tokenizer}"
    )


def note(line: str) -> None:
    """Prints a warning; it may quote a file, whose escape sequences are shown as text."""
    print(escape_controls(line), file=sys.stderr)


@contextlib.contextmanager
def shown_progress() -> Iterator[preparation.Progress]:
    """Yields a function that shows the work, bytes read, of all, and time left, at a terminal."""
    if not sys.stderr.isatty():
        yield lambda doing, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(doing: str, done: int, total: int) -> None:
            if doing != bar.tasks[task].description:  # Its time left is its own.
                bar.reset(task, description=doing)
            bar.update(task, completed=done, total=total)

        yield show


if __name__ == "__main__":
    flags.DEFINE_string(
        "input",
        None,
        "Files, folders or globs, with commas between: text (documents separated by "
        "<|endoftext|>), .jsonl (also .gz, .zst), .parquet.",
        required=True,
    )
    flags.DEFINE_string("output", None, "Folder to write.", required=True)
    flags.DEFINE_string("tokenizer", "gpt2", "gpt2, byte, or bpe:N, learned from the documents.")
    flags.DEFINE_string("field", "text", "Field of .jsonl and .parquet records with the text.")
    flags.DEFINE_float(
        "val_share", 0.01, "Share of the documents to hold out.", lower_bound=0.0, upper_bound=1.0
    )
    flags.DEFINE_bool("drop_duplicates", False, "Leaves out documents that were there before.")
    flags.DEFINE_integer("max_bad", 100, "Most bad lines to leave out.", lower_bound=0)
    flags.DEFINE_integer("workers", os.cpu_count(), "Processes that encode.", lower_bound=1)
    errors.run_command(main)
