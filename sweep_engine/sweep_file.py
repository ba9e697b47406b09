"""A W&B sweep file, read and checked: whatever can't be honoured without a server is refused."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from sweep_engine import distributions
from sweep_engine.distributions import Parameter
from sweep_engine.hyperband import Hyperband

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
# Keys that say where a sweep is kept and what it is called; they change nothing here.
LABELS = ("name", "description", "project", "entity", "controller", "apiVersion", "kind")
KEYS = (
    *("program", "method", "metric", "parameters", "command", "early_terminate", "run_cap"),
    *LABELS,
)
# What a preset does not decide: how a run is kept and filed.
FILING = ("--config.checkpoint.", "--config.tracking.")
# What W&B knows besides, and why it is not for this machine.
NOT_HERE = {
    "job": "a job of W&B Launch runs on a server's queue: name a program",
    "image_uri": "an image of W&B Launch runs on a server's queue: name a program",
    "scheduler": "a scheduler of its own needs a server: choose method grid, random or bayes",
    "metrics": "a search has one metric here: name it under metric",
}


@dataclass(frozen=True)
class Metric:
    """What a search is after. `target` ends the sweep as soon as a run reaches it."""

    name: str
    goal: str = "minimize"
    target: float | None = None

    def cost(self, value: float) -> float:
        """The lower the better, whatever the goal."""
        return -value if self.goal == "maximize" else value

    def reaches_target(self, value: float) -> bool:
        """Whether a run with this value has come as far as anyone wants."""
        return self.target is not None and self.cost(value) <= self.cost(self.target)


@dataclass(frozen=True)
class SweepFile:
    """The content of a sweep file. `metric` is None for a grid or random sweep that names none."""

    program: str
    method: str
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]
    metric: Metric | None
    early_terminate: Hyperband | None
    run_cap: int | None


def read(path: Path) -> tuple[SweepFile, str]:
    """The sweep file at `path`, and its text. Raises UserError with what is wrong in it."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{path} can't be read as a sweep file: {message}") from None
    try:
        return parse(content), text
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse(content: Any) -> SweepFile:
    """The sweep that the mapping `content` describes. Raises UserError."""
    if not isinstance(content, dict):
        raise UserError("expected a mapping with program, method and parameters")
    _check_keys("a sweep file", content, KEYS)
    method = content.get("method")
    if method not in METHODS:
        raise UserError(f"method is {method!r}: expected one of {', '.join(METHODS)}")
    metric = _metric(content.get("metric"))
    if method == "bayes" and metric is None:
        raise UserError("method bayes needs a metric to improve: metric: {name: val/loss}")
    early = _early_terminate(content.get("early_terminate"), metric)
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError("parameters is empty: name at least one, such as config.seed")
    # By name, as W&B has them.
    read_in = [distributions.read(str(name), parameters[name]) for name in sorted(parameters)]
    if method == "grid":
        for parameter in read_in:
            parameter.grid()
    return SweepFile(
        program=_program(content.get("program")),
        method=method,
        parameters=tuple(read_in),
        command=_command(content.get("command")),
        metric=metric,
        early_terminate=early,
        run_cap=_run_cap(content.get("run_cap")),
    )


def with_preset(sweep: SweepFile, preset: str) -> SweepFile:
    """`sweep` with a preset more for each experiment, and what it holds at one value left to that.

    A look, in a few seconds, at what a sweep does: `--preset=smoke`.
    """

    def chosen(experiment: Any) -> str:
        return f"{experiment}{'+' if ':' in str(experiment) else ':'}{preset}"

    parameters = []
    for parameter in sweep.parameters:
        if parameter.name == "config":
            given = dict(parameter.given)
            if "values" in given:
                given["values"] = [chosen(value) for value in given["values"]]
            else:
                given["value"] = chosen(given["value"])
            parameters.append(replace(parameter, given=given))
        elif not parameter.is_constant:
            parameters.append(parameter)
    command = [
        chosen(word) if word.startswith("--config=") else word
        for word in sweep.command
        if not word.startswith("--config.") or word.startswith(FILING)
    ]
    return replace(sweep, parameters=tuple(parameters), command=tuple(command))


def _check_keys(what: str, given: Mapping, known: tuple[str, ...]) -> None:
    for key in given:
        if key in NOT_HERE:
            raise UserError(f"{key!r} can't be honoured without a server: {NOT_HERE[key]}")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise UserError(f"{what} has no key {key!r}: {hint}")


def _program(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise UserError("program is missing: program: main.py")
    if not os.path.isfile(given):
        raise UserError(f"program {given!r} is not a file, seen from {os.getcwd()}")
    return given


def _command(given: Any) -> tuple[str, ...]:
    if given is None:
        return DEFAULT_COMMAND
    if not isinstance(given, list) or not given:
        raise UserError(f"command is {given!r}: expected a list of words")
    return tuple(map(str, given))


def _run_cap(given: Any) -> int | None:
    if given is not None and (type(given) is not int or given < 1):
        raise UserError(f"run_cap is {given!r}: expected a whole number of at least 1")
    return given


def _metric(given: Any) -> Metric | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise UserError(f"metric is {given!r}: expected name, such as val/loss, and goal")
    _check_keys("metric", given, ("name", "goal", "target", "impute", "impute_while_running"))
    goal, target = given.get("goal", "minimize"), given.get("target")
    if goal not in GOALS:
        raise UserError(f"metric has goal {goal!r}: expected minimize or maximize")
    if target is not None and (isinstance(target, bool) or not isinstance(target, int | float)):
        raise UserError(f"metric has target {target!r}: expected a number")
    # What a search makes of a run that failed: here the worst value of all.
    for key, only in (("impute", "worst"), ("impute_while_running", "false")):
        if str(given.get(key, only)).lower() != only:
            raise UserError(f"metric has {key} {given[key]!r}, which only a server does: {only}")
    return Metric(given["name"], goal, target)


def _early_terminate(given: Any, metric: Metric | None) -> Hyperband | None:
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise UserError(f"early_terminate is {given!r}: expected type: hyperband and min_iter")
    _check_keys("early_terminate", given, ("type", "min_iter", "max_iter", "s", "eta", "strict"))
    if metric is None:
        raise UserError("early_terminate needs a metric to judge by: metric: {name: val/loss}")
    numbers = {key: given[key] for key in ("min_iter", "max_iter", "s", "eta") if key in given}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
            raise UserError(f"early_terminate has {key} {value!r}: expected a number, at least 1")
    if "min_iter" not in given and not {"max_iter", "s"} <= given.keys():
        raise UserError("early_terminate needs min_iter, or max_iter and s")
    if given.get("eta", 3) <= 1:
        raise UserError(f"early_terminate has eta {given['eta']}: expected more than 1")
    strict = given.get("strict", True)
    if not isinstance(strict, bool):
        raise UserError(f"early_terminate has strict {strict!r}: expected true or false")
    if not Hyperband(**numbers, strict=strict).bands():
        raise UserError("early_terminate judges no run: raise max_iter or s, or lower eta")
    return Hyperband(**numbers, strict=strict)
