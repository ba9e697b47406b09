"""The comparison table and the settings that differ; the terminal and the page show the same."""

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from reporting.groups import BOOKKEEPING
from reporting.runs import Run, group_by, number, sanitize

# Header and, for the page, its meaning.
COLUMNS = {
    "run": "",
    "parameters": "Number of trained parameters.",
    "tokens": "Tokens seen in training, repetitions included.",
    "FLOPs": "Floating-point operations of training, as the compiler counts them.",
    "seconds": "Training time, without compilation, evaluation and sampling.",
    "train loss": "Mean of the logged ones over the last tenth of the steps; each is of one batch.",
    "val loss": "Nats per token on the whole validation split, after the last update.",
    "bits per byte": "The same loss per byte of text: comparable across tokenizers.",
    "notes": "",
    "vs previous stage": "Change in val loss in per cent, or with the ratio of FLOPs if it is not "
    "1; of the first stage from the uniform distribution.",
}
NUMBERS, PROSE = tuple(COLUMNS)[1:8], tuple(COLUMNS)[8:]
MISSING = "–"
# Of the environment, what computes.
VERSIONS = ("python", "jax", "flax")
# Losses that differ by less than this count as equal.
SAME_LOSS = 0.005
# Ratios of FLOPs that count as equal: a run ends with a whole update.
SAME_COMPUTE = (0.9, 1.1)


class Baseline(NamedTuple):
    """Loss that a stage is compared with, and the FLOPs that it took; 0 if they are not known."""

    loss: float
    flops: float


def table(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Returns a row of cells for each run, without prose columns that are the same in all rows."""
    alike = group_by(runs, lambda run: (run.task, run.stage, run.vocab_size))
    before = {key: baseline(group[0], runs) for key, group in alike.items()}
    rows = [cells(run, before[run.task, run.stage, run.vocab_size]) for run in runs]
    idle = [key for key in PROSE if runs[1:] and len({row[key] for row in rows}) == 1]
    return [{key: text for key, text in row.items() if key not in idle} for row in rows]


def cells(run: Run, before: Baseline | None) -> dict[str, str]:
    """Returns the text under each of `COLUMNS` for a run."""
    seconds = run.last("seconds")
    name = run.name
    if run.status != "done":
        name += f" ({run.status}, step {run.metrics[-1]['step']:,})"
    texts = (
        name,
        show(number(run.summary.get("num_params")), ","),
        compact(run.last("tokens_seen")),
        show(run.last("train_flops"), ".1e").replace("e+0", "e").replace("e+", "e"),
        show(seconds, ",.2f" if seconds is None or seconds < 10 else ",.1f"),
        show(train_loss(run)),
        val_loss_text(run),
        show(run.last("val/bits_per_byte")),
        sanitize(run.config.get("tracking.notes", "")),
        gain_text(run, before),
    )
    return dict(zip(COLUMNS, texts, strict=True))


def train_loss(run: Run) -> float | None:
    """Returns the mean training loss logged over the last tenth of the steps, if all are finite."""
    lines = [line for line in run.metrics if "train/loss" in line]
    last = [number(x["train/loss"]) for x in lines if x["step"] > 0.9 * lines[-1]["step"]]
    finite = [loss for loss in last if loss is not None]
    return fmean(finite) if finite and len(finite) == len(last) else None


def val_loss_text(run: Run) -> str:
    """Returns the last validation loss, and the best one if that is lower."""
    losses = run.series("val/loss")
    if not losses:
        return MISSING
    last, best = losses[-1], min((x for x in losses if x is not None), default=None)
    text = "not finite" if last is None else show(last)
    if best is not None and (last is None or best < last - SAME_LOSS):
        text += f" (best {show(best)})"
    return text


def baseline(run: Run, runs: Sequence[Run]) -> Baseline | None:
    """Returns the mean of the stage before a run's in the ladder; None if there is none.

    It has the same text and tokenizer. That of the first stage is the uniform distribution.
    """
    before = [other for other in runs if 0 < other.stage < run.stage and other.task == run.task]
    nearest = max((other.stage for other in before), default=0)
    stage = [other for other in before if other.stage == nearest]
    earlier = [other for other in stage if other.last("val/loss") is not None]
    if earlier:
        flops = finite(earlier, "train_flops")
        return Baseline(fmean(finite(earlier, "val/loss")), fmean(flops) if flops else 0)
    return Baseline(math.log(run.vocab_size), 0) if run.vocab_size and not before else None


def gain_text(run: Run, before: Baseline | None) -> str:
    """Returns the change in validation loss from a baseline; empty without one, or a stage."""
    loss = run.last("val/loss")
    if loss is None or not run.stage or before is None:
        return ""
    gain = loss - before.loss
    # With one character to choose from, there is nothing to lose.
    beside = f"{100 * gain / before.loss:+.0f}%" if before.loss else "from 0"
    flops = run.last("train_flops")
    if flops is not None and before.flops:
        ratio = flops / before.flops
        if not SAME_COMPUTE[0] < ratio < SAME_COMPUTE[1]:
            beside = f"{ratio:.0f}x FLOPs" if ratio >= 10 else f"{ratio:.2g}x FLOPs"
        elif gain > -SAME_LOSS:
            beside = "no gain" if gain < SAME_LOSS else "worse"
    return f"{gain:+.2f} nats ({beside})"


def finite(runs: Sequence[Run], metric: str) -> list[float]:
    """Returns the newest value of a metric of each run that has a finite one."""
    return [value for run in runs if (value := run.last(metric)) is not None]


def origin(run: Run) -> dict[str, str]:
    """Returns when a run began, and the code, machine and libraries of it, as far as known."""
    environment = run.environment
    commit = sanitize(environment.get("git_commit") or "")[:10]
    dirty = " with uncommitted changes" if environment.get("git_dirty") else ""
    num_devices = number(environment.get("num_devices")) or 1
    versions = [f"{name} {environment[name]}" for name in VERSIONS if environment.get(name)]
    values = {
        "date": str(environment.get("started") or "")[:10],
        "commit": commit and commit + dirty,
        "device": environment.get("device"),
        "devices": num_devices if num_devices > 1 else None,
        "processor cores": environment.get("num_cpus"),
        "versions": ", ".join(versions),
    }
    return {key: sanitize(value) for key, value in values.items() if value}


def settings(run: Run) -> dict[str, str]:
    """Returns the run's config and origin as texts."""
    config = run.config
    values = {
        **origin(run),
        "precision": run.environment.get("precision"),
        **{key: value for key, value in config.items() if not key.startswith(BOOKKEEPING)},
    }
    return {
        sanitize(key): _text(value)
        for key, value in values.items()
        if value is not None and value != ""
    }


def _text(value: Any) -> str:
    """Returns a setting as text: 3e+11 rather than 300000000000.0."""
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return value if value == sanitize(value) else json.dumps(value)


def differences(runs: Sequence[Run]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Returns the settings that differ, a text for each run, and those that all runs share."""
    of_runs = [settings(run) for run in runs]
    keys = dict.fromkeys(key for of_run in of_runs for key in of_run)
    texts = {key: [of_run.get(key, MISSING) for of_run in of_runs] for key in keys}
    differ = {key: values for key, values in texts.items() if len(set(values)) > 1}
    return differ, {key: values[0] for key, values in texts.items() if key not in differ}


def show(value: float | None, form: str = ".3f") -> str:
    """Formats a number, or a dash for None."""
    return MISSING if value is None else format(value, form)


def compact(count: float | None) -> str:
    """Formats a count with three digits: 256,000 as 256k, 10,646,784 as 10.6M."""
    if count is None:
        return MISSING
    rounded = float(f"{count:.3g}")
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{rounded / size:.3g}{unit}"
    return f"{rounded:.0f}"
