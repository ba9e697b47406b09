"""Experiments by name: their files, their presets, and a line on each."""

import difflib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from experiments import default
from runtime.errors import UserError

FOLDER = Path(__file__).parent
# Characters of a preset's changes that are shown.
WIDTH = 100


def locate(experiment: str) -> str:
    """Returns `gpt2:smoke` as `experiments/gpt2.py:smoke`, whatever the current folder is.

    A path to a file, or to none, stays as it is.
    """
    path, colon, preset = experiment.partition(":")
    name = path.removeprefix("experiments/").removesuffix(".py")
    if not Path(path).is_file() and name in names():
        file, here = FOLDER / f"{name}.py", Path.cwd()
        path = str(file.relative_to(here) if file.is_relative_to(here) else file)
    return path + colon + preset


def explain(experiment: str) -> str:
    """Returns why `experiment` can't be read, in words; "" if its file is there."""
    path = experiment.partition(":")[0]
    if Path(path).is_file():
        return ""
    known = names()
    near = difflib.get_close_matches(Path(path).stem, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"--config={path} is not a file: {hint}expected one of {', '.join(known)}, or a file"


def names() -> list[str]:
    """Returns the names of the experiments: the ladder's in their order, then the others."""
    others = sorted(
        path.stem
        for path in FOLDER.glob("*.py")
        if path.stem not in default.LADDER
        and re.search(r"^def get_config\(preset", path.read_text("utf-8", "replace"), re.MULTILINE)
    )
    return [*default.LADDER, *others]


def overview() -> Iterator[str]:
    """Yields a line for each experiment: its name and the names of its presets."""
    for name in names():
        presets = ", ".join([*_presets(name), *_families(name)])
        yield f"{name}: {presets or 'no presets'}"


def details() -> Iterator[str]:
    """Yields a line for each experiment, and one for each of its presets."""
    for name in names():
        yield f"{name}: {_module(name).get_config().tracking.notes}"
        for preset, changes in _presets(name).items():
            text = ", ".join(f"{key}={value}" for key, value in changes.items())
            yield f"  {name}:{preset}: {text if len(text) <= WIDTH else text[:WIDTH] + ' ...'}"
        for spelling, what in _families(name).items():
            yield f"  {name}:{spelling}: {what}"


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"experiments.{name}")
    except Exception as error:  # Someone is writing it.
        raise UserError(f"experiments/{name}.py: {type(error).__name__}: {error}") from None


def _presets(name: str) -> dict[str, default.Preset]:
    return getattr(_module(name), "PRESETS", {})


def _families(name: str) -> dict[str, str]:
    """Returns the families of presets that an experiment imports, each with its description."""
    imported = vars(_module(name)).values()
    families = [one.FAMILIES for one in imported if hasattr(one, "FAMILIES")]
    return {spelling: what for family in families for spelling, what in family.items()}
