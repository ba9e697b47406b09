"""Looks inside trained models, and writes one page that compares what they do.

    python look_inside.py runs/ladder

FOLDER is a run folder or a folder of run folders; it takes any number of them. What is measured in
a run is written to its folder, as inside.json, and the page is drawn from these files.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()


import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict

import run_folder
from input_pipeline.shards import Shards
from reporting.runs import Run, read_runs
from runtime import errors
from runtime.files import check_output, write_output
from runtime.terminal import announce

if TYPE_CHECKING:  # JAX takes seconds to load, so the flags are checked first.
    from inspection.subject import Subject

OUTPUT = flags.DEFINE_string(
    "output", "", "The HTML page to write. Default: inside.html in the first FOLDER."
)
TEXT = flags.DEFINE_string(
    "text",
    "",
    "Text to measure on instead of the validation split: file, folder, glob, or several.",
)
DATA = flags.DEFINE_string("data", "", "A file to write the results to, as JSON.")
FIGURES = flags.DEFINE_string("figures", "", "A folder to write the charts to, as SVG.")
WANDB = flags.DEFINE_enum(
    "wandb", "disabled", ["disabled", "offline", "online"], "Also makes a W&B run of the page."
)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "best (by validation loss), latest, or a step."
)


def main(*folders: str) -> None:
    if not folders:
        raise errors.UserError("no run to look into: name a folder, python look_inside.py FOLDER")
    runs, unread = read_runs([Path(folder) for folder in folders])
    output = Path(OUTPUT.value or Path(folders[0]) / "inside.html")
    check_output(output)
    if DATA.value:
        check_output(Path(DATA.value), "--data")
    announce(f"opening {len(runs)} {'runs' if len(runs) > 1 else 'run'}")
    process.configure_jax()
    looked: list[Run] = []
    subjects: list[Subject] = []
    for place, run in enumerate(runs, start=1):
        try:
            pairs = zip(looked, subjects, strict=True)
            earlier = [subject for other, subject in pairs if other.stage < run.stage]
            config, subject = look(run, f"{place} of {len(runs)}, {run.name}", earlier)
            looked.append(run)
            subjects.append(subject)
        except errors.UserError as error:
            unread.append(str(error))
    if not looked:
        raise errors.UserError(unread[-1])
    for line in unread:
        print(f"warning: left out: {line}", file=sys.stderr)
    draw(looked, unread, output)
    if WANDB.value != "disabled":
        print(mirror(looked, output, config))


def draw(looked: Sequence[Run], unread: Sequence[str], output: Path) -> None:
    """Writes the page, the data and the figures. Raises UserError if one can't be written."""
    # Altair takes a second to load.
    from reporting import figures, inside

    insides = inside.read(looked).insides
    page = inside.render(insides, [f"Left out: {line}" for line in unread])
    write_output(output, page.encode("utf-8", "replace"))
    if DATA.value:
        content = json.dumps(run_folder.finite(inside.records(insides, looked)), indent=1)
        write_output(Path(DATA.value), f"{content}\n".encode(), "--data")
    if FIGURES.value:
        specs = inside.figures(insides).items()
        named = ((figures.file_name(heading), spec) for heading, spec in specs)
        figures.save(Path(FIGURES.value), named)
    print(f"page: {output}")


def mirror(looked: Sequence[Run], output: Path, config: ConfigDict) -> str:
    """Makes a W&B run of the page, in the project of `config`, and returns where it is."""
    from reporting import figures, inside
    from tracking import inspection

    insides = inside.read(looked).insides
    return inspection.mirror(
        config,
        output.parent,
        "online" if WANDB.value == "online" else "offline",
        page=output.read_text(encoding="utf-8"),
        figures={name: figures.svg(spec) for name, spec in inside.figures(insides).items()},
        heads=inside.heads(insides),
        numbers=inside.numbers(insides),
    )


def look(run: Run, place: str, others: Sequence["Subject"]) -> tuple[ConfigDict, "Subject"]:
    """Measures a run's model beside others, and writes inside.json. Raises UserError.

    Returns the run's config, and what was looked into.
    """
    import harness
    from inspection import views
    from inspection.subject import Subject

    opened = harness.open_run(run.folder, CHECKPOINT.value)
    splits: dict[str, Any] = opened.splits()
    if isinstance(splits["train"], Shards):
        raise errors.UserError(
            f"{run.folder} was trained on a prepared corpus, which may be larger than memory: "
            "expected a run on a text"
        )
    held_out: Any = splits["val"]
    if TEXT.value:
        held_out = opened.read_text(TEXT.value)
    subject = Subject(
        name=run.name,
        model=opened.model,
        params=opened.params,
        tokenizer=opened.tokenizer,
        context_length=opened.config.model.context_length,
        train=splits["train"],
        tokens=held_out,
        snapshots=opened.snapshots,
        others=others,
    ).check()
    measured = views.measure(subject, lambda view: print(f"{place}: {view}", flush=True))
    text = TEXT.value or f"the validation split of {opened.config.data.name}"
    content = {"step": opened.step, "text": text, **measured}
    try:
        run_folder.write_json(run.folder / run_folder.INSIDE, run_folder.finite(content))
    except OSError as error:
        raise errors.UserError(
            f"{run.folder / run_folder.INSIDE} can't be written: {error.strerror}"
        ) from None
    return opened.config, subject


if __name__ == "__main__":
    errors.run_command(main, positional=True)
