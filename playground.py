"""Writes one page with trained models in it, which runs anywhere: in a browser, without a network.

    python playground.py runs/ladder --output=playground.html

FOLDER is a run folder or a folder of run folders; it takes any number of them. The page computes
the models in JavaScript (playground_page/models), from their weights.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()


import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

import run_folder
from reporting.runs import Run, read_runs
from runtime import errors
from runtime.files import check_output, write_output
from runtime.terminal import announce

if TYPE_CHECKING:  # JAX takes seconds to load, so the flags are checked first.
    from playground_page.page import Entry

OUTPUT = flags.DEFINE_string(
    "output", "", "The HTML page to write. Default: playground.html in the first FOLDER."
)
MAX_MEGABYTES = flags.DEFINE_float(
    "max_megabytes", 32.0, "Size of the largest page to write, in millions of bytes.", 0.0
)
DTYPE = flags.DEFINE_enum(
    "dtype", "float16", ["float16", "float32"], "Type of the weights: float32 makes twice the page."
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "best (by validation loss), latest, or a step."
)


def main(*folders: str) -> None:
    if not folders:
        raise errors.UserError("no run to play with: name a folder, python playground.py FOLDER")
    runs, unread = read_runs([Path(folder) for folder in folders])
    output = Path(OUTPUT.value or Path(folders[0]) / run_folder.PLAYGROUND)
    check_output(output)
    announce(f"opening {len(runs)} {'runs' if len(runs) > 1 else 'run'}")
    process.configure_jax()
    from playground_page import page

    entries: list[Entry] = []
    for run in runs:
        try:
            entries.append(open_entry(run))
        except errors.UserError as error:
            unread.append(str(error))
    if not entries:
        raise errors.UserError(unread[-1])
    for line in unread:
        print(f"warning: left out: {line}", file=sys.stderr)
    text = page.render(entries, [f"Left out: {line}" for line in unread])
    content = text.encode("utf-8", "replace")
    if len(content) > MAX_MEGABYTES.value * 1e6:
        raise errors.UserError(
            f"the page has {len(content) / 1e6:,.1f} MB: expected at most "
            f"--max_megabytes={MAX_MEGABYTES.value:g}; name fewer runs, allow more, "
            "or use generate.py"
        )
    write_output(output, content)
    print(f"page: {output}, {len(content) / 1e6:.1f} MB")


def open_entry(run: Run) -> "Entry":
    """Returns a run's model as the page has it. Raises UserError for one that it can't carry."""
    import harness
    from playground_page import page

    opened = harness.open_run(run.folder, CHECKPOINT.value)
    try:
        held_out = opened.splits()["val"]
    except errors.UserError:  # The text is not on this machine: the page does without.
        held_out = None
    return page.entry(
        run,
        opened.model,
        opened.params,
        opened.tokenizer,
        context_length=opened.config.model.context_length,
        notes=opened.config.tracking.notes,
        text=tuple(opened.config.data[key] for key in page.TEXT),
        held_out=held_out,
        dtype=DTYPE.value,
    )


if __name__ == "__main__":
    errors.run_command(main, positional=True)
