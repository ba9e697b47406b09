"""Runs side by side: the cells of the table, what each stage bought, where the configs differ.

The terminal and the page show the same cells.
"""

import json
import math
from collections.abc import Sequence
from statistics import fmean

from reporting.runs import Run, number, plain

# Header and, for the page, what it means.
COLUMNS = {
    "run": "",
    "parameters": "Numbers that training adjusts.",
    "tokens": "Tokens seen in training, repetitions included.",
    "FLOPs": "Floating-point operations of training, as the compiler counts them.",
    "seconds": "Of training alone: no compilation, evaluation or sampling.",
    "train loss": "Mean of those logged in the last tenth of the steps: one is a single batch's.",
    "val loss": "Nats per token on the whole validation split, after the last update.",
    "bits per byte": "The same loss per byte of text: comparable across tokenizers.",
    "what it adds": "",
    "what that bought": "Val loss against the stage before; the first against guessing uniformly.",
}
NUMBERS, PROSE = tuple(COLUMNS)[1:8], tuple(COLUMNS)[8:]
NONE = "–"
# A best loss closer to the last one than this is the same result.
SAME_LOSS = 0.005


# How a run is filed and kept is not what it does.
FILING = ("tracking.", "checkpoint.")


def table(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row of cells for each run, without prose that says the same of all of them."""
    rows = [cells(run, runs) for run in runs]
    idle = [key for key in PROSE if runs[1:] and len({row[key] for row in rows}) == 1]
    return [{key: text for key, text in row.items() if key not in idle} for row in rows]


def cells(run: Run, runs: Sequence[Run]) -> dict[str, str]:
    """The text under each of `COLUMNS` for one of `runs`."""
    num_params = number(run.summary.get("num_params"))
    seconds = run.last("seconds")
    name = run.name
    if run.status != "done":
        name += f" ({run.status}, step {run.metrics[-1]['step']:,})"
    texts = (
        name,
        NONE if num_params is None else f"{num_params:,}",
        compact(run.last("tokens_seen")),
        scientific(run.last("train_flops")),
        NONE if seconds is None else f"{seconds:,.2f}" if seconds < 10 else f"{seconds:,.1f}",
        loss_text(train_loss(run)),
        val_loss_text(run),
        loss_text(run.last("val/bits_per_byte")),
        plain(run.config.get("tracking.notes", "")),
        bought(run, runs),
    )
    return dict(zip(COLUMNS, texts, strict=True))


def train_loss(run: Run) -> float | None:
    """Mean of the training losses logged over the last tenth of the steps."""
    logged = [line for line in run.metrics if "train/loss" in line]
    if not logged:
        return None
    since = 0.9 * logged[-1]["step"]
    losses = [number(line["train/loss"]) for line in logged if line["step"] > since]
    return None if None in losses else fmean(losses)


def val_loss_text(run: Run) -> str:
    """The last validation loss, and the best if it was a better one."""
    losses = run.series("val/loss")
    finite = [loss for loss in losses if loss is not None]
    if not losses:
        return NONE
    last = losses[-1]
    text = "not finite" if last is None else loss_text(last)
    if finite and (last is None or min(finite) < last - SAME_LOSS):
        text += f" (best {loss_text(min(finite))})"
    return text


def bought(run: Run, runs: Sequence[Run]) -> str:
    """What `run` gained on the mean of the stage before it, for runs of one ladder.

    Empty where there is nothing to compare with: no stage, another text or tokenizer.
    """
    loss = run.last("val/loss")
    if loss is None or not run.stage:
        return ""
    before = [other for other in runs if 0 < other.stage < run.stage and same_task(run, other)]
    nearest = max((other.stage for other in before), default=0)
    losses = [other.last("val/loss") for other in before if other.stage == nearest]
    losses = [other for other in losses if other is not None]
    if losses:
        baseline = fmean(losses)
    elif run.vocab_size and not before:
        baseline = math.log(run.vocab_size)
    else:
        return ""
    gain = loss - baseline
    return f"{gain:+.2f} nats ({100 * gain / baseline:+.0f}%)"


def same_task(one: Run, other: Run) -> bool:
    """Whether two runs' nats per token are about the same tokens of the same text."""
    keys = ("data.name", "data.path", "data.tokenizer")
    return all(one.config.get(key) == other.config.get(key) for key in keys)


def group_seeds(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that are the same but for the seed, together under one label."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        rest = {
            key: value
            for key, value in run.config.items()
            if key != "seed" and not key.startswith(FILING)
        }
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    return {
        group[0].name + (f" ({len(group)} seeds)" if group[1:] else ""): group
        for group in groups.values()
    }


def facts(run: Run) -> dict[str, str]:
    """What made this run what it is: its config and where it ran."""
    environment, config = run.environment, run.config
    commit = plain(environment.get("git_commit") or "")[:10]
    dirty = " with uncommitted changes" if environment.get("git_dirty") else ""
    about = {
        "device": environment.get("device"),
        "code": commit and commit + dirty,
        "precision": environment.get("precision"),
        **{key: value for key, value in config.items() if not key.startswith(FILING)},
    }
    return {
        plain(key): value if value == plain(value) else json.dumps(value)
        for key, value in about.items()
        if value is not None and value != ""
    }


def differences(runs: Sequence[Run]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The facts that differ, a text for each run, and those that are the same in all."""
    of_runs = [facts(run) for run in runs]
    keys = list(dict.fromkeys(key for of_run in of_runs for key in of_run))
    texts = {key: [of_run.get(key, NONE) for of_run in of_runs] for key in keys}
    differ = {key: values for key, values in texts.items() if len(set(values)) > 1}
    return differ, {key: values[0] for key, values in texts.items() if key not in differ}


def loss_text(loss: float | None) -> str:
    """A loss in nats for a table cell."""
    return NONE if loss is None else f"{loss:.3f}"


def compact(count: float | None) -> str:
    """A count to three digits: 256,000 as 256k, 10,646,784 as 10.6M."""
    if count is None:
        return NONE
    rounded = float(f"{count:.3g}")
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{rounded / size:.3g}{unit}"
    return f"{rounded:.0f}"


def scientific(count: float | None) -> str:
    """A huge count as 3.1e12."""
    return NONE if count is None else f"{count:.1e}".replace("e+0", "e").replace("e+", "e")
