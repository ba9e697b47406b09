"""The comparison table and the settings that differ; the terminal and the page show the same."""

import json
import math
from collections.abc import Sequence
from statistics import fmean

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
# Losses that differ by less than this count as equal.
SAME_LOSS = 0.005
# Ratios of FLOPs that count as equal: a run ends with a whole update.
SAME_COMPUTE = (0.9, 1.1)
# Config groups that do not change what a run computes.
BOOKKEEPING = ("tracking.", "checkpoint.")


def table(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Returns a row of cells for each run, without prose columns that are the same in all rows."""
    rows = [cells(run, runs) for run in runs]
    idle = [key for key in PROSE if runs[1:] and len({row[key] for row in rows}) == 1]
    return [{key: text for key, text in row.items() if key not in idle} for row in rows]


def cells(run: Run, runs: Sequence[Run]) -> dict[str, str]:
    """Returns the text under each of `COLUMNS` for one of `runs`."""
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
        gain_text(run, runs),
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


def gain_text(run: Run, runs: Sequence[Run]) -> str:
    """Returns the change in validation loss from the mean of the stage before it in the ladder.

    Empty without a baseline: no stage, or another text or tokenizer.
    """
    loss = run.last("val/loss")
    if loss is None or not run.stage:
        return ""
    before = [other for other in runs if 0 < other.stage < run.stage and same_task(run, other)]
    nearest = max((other.stage for other in before), default=0)
    earlier = [
        other for other in before if other.stage == nearest and other.last("val/loss") is not None
    ]
    if earlier:
        baseline = fmean(finite(earlier, "val/loss"))
    elif run.vocab_size and not before:
        baseline = math.log(run.vocab_size)
    else:
        return ""
    gain = loss - baseline
    beside = f"{100 * gain / baseline:+.0f}%"
    flops, flops_before = finite([run], "train_flops"), finite(earlier, "train_flops")
    if flops and any(flops_before):
        ratio = flops[0] / fmean(flops_before)
        if not SAME_COMPUTE[0] < ratio < SAME_COMPUTE[1]:
            beside = f"{ratio:.0f}x FLOPs" if ratio >= 10 else f"{ratio:.2g}x FLOPs"
        elif gain > -SAME_LOSS:
            beside = "no gain" if gain < SAME_LOSS else "worse"
    return f"{gain:+.2f} nats ({beside})"


def finite(runs: Sequence[Run], metric: str) -> list[float]:
    """Returns the newest value of a metric of each run that has a finite one."""
    return [value for run in runs if (value := run.last(metric)) is not None]


def same_task(one: Run, other: Run) -> bool:
    """Returns True if two runs' losses are comparable: same text, same tokenizer."""
    keys = ("data.name", "data.path", "data.tokenizer")
    return all(one.config.get(key) == other.config.get(key) for key in keys)


def group_seeds(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Groups runs that differ only in the seed, under a label."""

    def without_seed(run: Run) -> str:
        kept = {key: x for key, x in run.config.items() if not key.startswith(BOOKKEEPING)}
        return json.dumps({**kept, "seed": None}, sort_keys=True)

    groups = group_by(runs, without_seed).values()
    return {
        group[0].name + (f" ({len(group)} seeds)" if group[1:] else ""): group for group in groups
    }


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """Returns the label of each run's group of seeds, by the run's name."""
    return {run.name: label for label, group in group_seeds(runs).items() for run in group}


def settings(run: Run) -> dict[str, str]:
    """Returns the run's config, code version and device as texts."""
    environment, config = run.environment, run.config
    commit = sanitize(environment.get("git_commit") or "")[:10]
    dirty = " with uncommitted changes" if environment.get("git_dirty") else ""
    values = {
        "device": environment.get("device"),
        "code": commit and commit + dirty,
        "precision": environment.get("precision"),
        **{key: value for key, value in config.items() if not key.startswith(BOOKKEEPING)},
    }
    return {
        sanitize(key): value if value == sanitize(value) else json.dumps(value)
        for key, value in values.items()
        if value is not None and value != ""
    }


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
