"""Parses and checks a W&B sweep file; refuses keys that need a server."""

import difflib
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from run_folder import METRIC_NAMES, NORMS
from runtime.errors import UserError
from sweep_engine import distributions
from sweep_engine.distributions import Parameter, is_number
from sweep_engine.hyperband import Hyperband

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("grid", "random", "bayes")
KEYS = (
    *("program", "method", "metric", "parameters", "command", "early_terminate", "run_cap"),
    # For the server's records, ignored here.
    *("name", "description", "project", "entity", "controller", "apiVersion", "kind"),
)
# Sections that no preset changes: a command's flags for them stay beside --preset.
STORAGE = ("--config.checkpoint.", "--config.tracking.")
NEEDS_SERVER = {
    "job": "W&B Launch runs it from a server's queue; name a program instead",
    "image_uri": "W&B Launch runs it from a server's queue; name a program instead",
    "scheduler": "choose method grid, random or bayes instead",
    "metrics": "a search here has one metric; name it under metric",
}


@dataclass(frozen=True)
class Metric:
    """Metric by which runs are compared. A run that reaches `target` ends the sweep."""

    name: str
    goal: str = "minimize"
    target: float | None = None

    def cost(self, value: float | None) -> float:
        """Returns `value` such that lower is better, and infinity for None."""
        if value is None:
            return math.inf
        return -value if self.goal == "maximize" else value

    def reaches_target(self, value: float | None) -> bool:
        """Returns True if `value` is as good as the target or better."""
        return self.target is not None and self.cost(value) <= self.cost(self.target)


@dataclass(frozen=True)
class SweepFile:
    """Content of a sweep file."""

    program: str
    method: str
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]
    metric: Metric
    early_terminate: Hyperband | None
    run_cap: int | None


def read(path: Path) -> tuple[SweepFile, str]:
    """Returns the sweep file at `path`, and its text. Raises UserError for any mistake in it."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        return parse(yaml.safe_load(text)), text
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = getattr(error, "strerror", None) or error
        raise UserError(f"{path} can't be read as a sweep file: {message}") from None


def parse(content: Any) -> SweepFile:
    """Returns the sweep that the mapping `content` describes. Raises UserError."""
    if not isinstance(content, dict):
        raise UserError("expected a mapping with program, method and parameters")
    _check_keys("a sweep file", content, KEYS)
    method = content.get("method")
    if method not in METHODS:
        raise UserError(f"method is {method!r}: expected one of {', '.join(METHODS)}")
    metric = _metric(content.get("metric"))
    if method == "bayes" and metric is None:
        raise UserError("method bayes needs a metric to improve: metric: {name: val/loss}")
    early_terminate = _early_terminate(content.get("early_terminate"), metric)
    by_name = content.get("parameters")
    if not isinstance(by_name, dict) or not by_name:
        raise UserError("parameters is empty: name at least one, such as config.seed")
    # Sorted by name, as W&B does.
    parameters = tuple(distributions.parse(str(name), by_name[name]) for name in sorted(by_name))
    if method == "grid":
        for parameter in parameters:
            parameter.grid()
    program = content.get("program")
    if not isinstance(program, str) or not program:
        raise UserError("program is missing: program: main.py")
    if not os.path.isfile(program):
        root = shlex.quote(str(ROOT))
        to_do = f"cd {root} first" if (ROOT / program).is_file() else "check its name"
        raise UserError(f"program {program!r} is not a file in {os.getcwd()}: {to_do}")
    command = content.get("command")
    if command is None:
        command = ("${env}", "${interpreter}", "${program}", "${args}")
    elif not isinstance(command, list) or not command:
        raise UserError(f"command is {command!r}: expected a list of words")
    run_cap = content.get("run_cap")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise UserError(f"run_cap is {run_cap!r}: expected a positive integer")
    words = tuple(map(str, command))
    # The metric that compares all stages, for a file that names none.
    metric = metric or Metric("val/loss")
    is_known = metric.name in METRIC_NAMES or metric.name.startswith(NORMS)
    if os.path.basename(program) == "main.py" and not is_known:
        near = difflib.get_close_matches(metric.name, METRIC_NAMES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"metric is {metric.name!r}, which no run of {program} measures: {hint}expected one of "
            f"{', '.join(METRIC_NAMES)}"
        )
    return SweepFile(program, method, parameters, words, metric, early_terminate, run_cap)


def with_preset(sweep: SweepFile, preset: str) -> SweepFile:
    """Returns `sweep` with `preset` added to each experiment.

    Drops constant parameters and the command's --config.* flags, which would override the preset.
    """

    def add_preset(experiment: Any) -> Any:
        if isinstance(experiment, list):
            return [add_preset(one) for one in experiment]
        return f"{experiment}{'+' if ':' in str(experiment) else ':'}{preset}"

    parameters = []
    for parameter in sweep.parameters:
        if parameter.name == "config":
            key = "values" if "values" in parameter.options else "value"
            options = {**parameter.options, key: add_preset(parameter.options[key])}
            parameters.append(replace(parameter, options=options))
        elif parameter.distribution != "constant":
            parameters.append(parameter)
    command = [
        add_preset(word) if word.startswith("--config=") else word
        for word in sweep.command
        if not word.startswith("--config.") or word.startswith(STORAGE)
    ]
    return replace(sweep, parameters=tuple(parameters), command=tuple(command))


def to_yaml(sweep: SweepFile, text: str) -> str:
    """Returns the file `text` with the parameters and the command of `sweep`, for `wandb sweep`."""
    import yaml

    content = yaml.safe_load(text)
    content["parameters"] = {
        one.name: {**content["parameters"][one.name], **one.options} for one in sweep.parameters
    }
    content["command"] = list(sweep.command)
    return yaml.safe_dump(content, sort_keys=False)


def _check_keys(what: str, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in content:
        if key in NEEDS_SERVER:
            raise UserError(f"{key!r} needs a W&B server: {NEEDS_SERVER[key]}")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise UserError(f"{what} has no key {key!r}: {hint}")


def _metric(content: Any) -> Metric | None:
    if content is None:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise UserError(f"metric is {content!r}: expected name, such as val/loss, and goal")
    _check_keys("metric", content, ("name", "goal", "target", "impute", "impute_while_running"))
    goal, target = content.get("goal", "minimize"), content.get("target")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"metric has goal {goal!r}: expected minimize or maximize")
    if target is not None and not is_number(target):
        raise UserError(f"metric has target {target!r}: expected a number")
    # W&B's replacement for the value of a failed run: here always the worst so far.
    for key, only in (("impute", "worst"), ("impute_while_running", "false")):
        if str(content.get(key, only)).lower() != only:
            raise UserError(f"metric has {key} {content[key]!r}: without a server, expected {only}")
    return Metric(content["name"], goal, target)


def _early_terminate(content: Any, metric: Metric | None) -> Hyperband | None:
    if content is None:
        return None
    if not isinstance(content, dict) or content.get("type") != "hyperband":
        raise UserError(f"early_terminate is {content!r}: expected type: hyperband and min_iter")
    names = ("min_iter", "max_iter", "s", "eta")
    _check_keys("early_terminate", content, ("type", *names, "strict"))
    if metric is None:
        raise UserError("early_terminate needs a metric to judge by: metric: {name: val/loss}")
    numbers = {name: content[name] for name in names if name in content}
    for name, value in numbers.items():
        if not is_number(value) or value < 1:
            raise UserError(f"early_terminate has {name} {value!r}: expected a number, at least 1")
    if "min_iter" not in numbers and not {"max_iter", "s"} <= numbers.keys():
        raise UserError("early_terminate needs min_iter, or max_iter and s")
    if numbers.get("eta", 3) <= 1:
        raise UserError(f"early_terminate has eta {numbers['eta']}: expected more than 1")
    strict = content.get("strict", True)
    if not isinstance(strict, bool):
        raise UserError(f"early_terminate has strict {strict!r}: expected true or false")
    hyperband = Hyperband(**numbers, strict=strict)
    if not hyperband.bands():
        raise UserError("early_terminate judges no run: raise max_iter or s, or lower eta")
    return hyperband
