"""Tables and texts of the pages of stages, from what the ladder and the sweeps measured.

`functions` has the names that a page may use. `stage` is the name of a run of the ladder.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from course import measured
from course.measured import File, count, markdown, number, signed
from exercises import catalogue
from experiments.default import LADDER
from reporting import statistics
from reporting.statistics import Difference

# Budget of training FLOPs at which neighbours are compared.
BUDGET = 3e12
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}


def bought(comparison: File, stage: str) -> str:
    """Returns a table of the loss of a stage and of the one before it, for both optimizers.

    Each at BUDGET, or at its largest budget if it is at its floor before.
    """
    before = LADDER[LADDER.index(stage) - 1]
    rows = []
    for optimizer, name in OPTIMIZERS.items():
        runs = {one: at_budget(comparison, one, optimizer) for one in (before, stage)}
        losses = {
            one: measured.values(comparison, measured.LOSS, each) for one, each in runs.items()
        }
        (found,) = statistics.differences(losses, before)
        budgets = [measured.compute(each[0]["train_flops"]) for each in runs.values()]
        means = [number(_mean(values)) for values in losses.values()]
        rows.append([name, *budgets, *means, *_difference(found)])
    headers = ["optimizer", "FLOPs before", "FLOPs now", "loss before", "loss now"]
    return markdown([*headers, "difference", "95 % interval"], rows)


def sizes(comparison: File, stage: str) -> str:
    """Returns the sizes of the runs that `bought` compares with Muon, in words."""
    place = LADDER.index(stage)
    return "; ".join(
        f"{one.replace('_', ' ')}, {_size(at_budget(comparison, one, 'muon')[0])}"
        for one in LADDER[place - 1 : place + 1]
    )


def _size(run: measured.Run) -> str:
    named = {"model.context_length": "context {}", "model.embed_dim": "{} wide"}
    named |= {"model.num_heads": "heads: {}", "model.num_layers": "blocks: {}"}
    shown = [words.format(run[key]) for key, words in named.items() if run[key]]
    return ", ".join([*shown, f"{count(run['num_params'])} parameters"])


def at_budget(comparison: File, stage: str, optimizer: str) -> list[measured.Run]:
    """Returns the runs of a stage with the largest budget up to BUDGET."""
    runs = [run for run in comparison.runs() if run["model.name"] == stage]
    if len({run["optimizer.name"] for run in runs}) > 1:
        runs = [run for run in runs if run["optimizer.name"] == optimizer]
    most = max((run["train.flops"] for run in runs if run["train.flops"] <= BUDGET), default=0)
    return [run for run in runs if run["train.flops"] == most]


def _difference(found: Difference) -> list[str]:
    """Returns the cells of a difference, bold if it is significant, and of its interval."""
    bold = "**" if found.significant else ""
    return [f"{bold}{signed(found.mean)}{bold}", f"{signed(found.low)} to {signed(found.high)}"]


def kinds(inside: File, stage: str) -> str:
    """Returns a table of the nats that a run gained over the one before, by kind of character."""
    gains = {name: gain for name, gain in _run(inside, stage)["gains"].items() if gain}
    rows = [[name, signed(gain)] for name, gain in gains.items()]
    rows.append(["**together**", f"**{signed(sum(gains.values()))}**"])
    return markdown(["kind of character", "nats gained"], rows)


def without(ideas: File, stage: str) -> str:
    """Returns a table of a stage without each of its ideas, tested against the stage.

    By Welch's t-test with Holm's correction over the ideas of the stage, as in the report.
    """
    groups = {}
    for name, runs in measured.select(ideas, {"model.name": stage}).items():
        groups[name.partition("without_")[2]] = measured.values(ideas, measured.LOSS, runs)
    pairs = [(idea, "") for idea in groups if idea]
    rows = [[f"{stage.replace('_', ' ')}", number(_mean(groups[""])), "", ""]]
    for found in statistics.welch(groups, pairs):
        name = f"without {found.one.replace('_', ' ')}"
        rows.append([name, number(_mean(groups[found.one])), *_difference(found)])
    return markdown(["run", "loss", "difference", "95 % interval"], rows)


def gaps(texts: File, stage: str) -> str:
    """Returns a table of how far a stage, and the one before it, are above each text's floor."""
    found = {(one["text"], one["model"]): one for one in measured.value(texts, "gaps")}
    place = LADDER.index(stage)
    shown = LADDER[max(0, place - 1) : place + 1]
    rows = [
        [f"`{text}`", number(found[text, stage]["floor"])]
        + [number(found[text, one]["gap"]) for one in shown]
        for text in dict.fromkeys(text for text, _ in found)
    ]
    headers = ["text", "floor", *(f"{one.replace('_', ' ')}, above it" for one in shown)]
    return markdown(headers, rows)


def changes(ideas: File, columns: dict[str, str]) -> str:
    """Returns a table of what a stage loses without each idea, by other settings.

    `columns` has the key of a setting for each header. Tests are by Welch's t-test with Holm's
    correction over the ideas of a row.
    """
    cells: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for runs in measured.select(ideas, {}).values():
        at = cells.setdefault(tuple(runs[0][key] for key in columns.values()), {})
        at[runs[0]["model.without"]] = measured.values(ideas, measured.LOSS, runs)
    names = list(dict.fromkeys(name for at in cells.values() for name in at if name))
    rows = []
    for setting, at in sorted(cells.items()):
        found = {one.one: one for one in statistics.welch(at, [(name, "") for name in names])}
        shown = [_setting(value) for value in setting]
        rows.append(
            [*shown, number(_mean(at[""])), *(_difference(found[name])[0] for name in names)]
        )
    headers = [*columns, "loss", *(f"without {name.replace('_', ' ')}" for name in names)]
    return markdown(headers, rows)


def _setting(value: Any) -> str:
    """Returns a setting as a page shows it."""
    if isinstance(value, float):
        return measured.compute(value) if value > 1e6 else f"{value:g}"
    return OPTIMIZERS.get(value, f"{value}")


def heads(inside: File, stage: str) -> str:
    """Returns a table of a run's heads: where they look, and what the loss is without each."""
    found = _run(inside, stage)["heads"]
    has_blocks = len({row["layer"] for row in found}) > 1
    rows = [
        [
            f"{row['layer']}.{row['head']}" if has_blocks else f"{row['head']}",
            *(f"{100 * row['distances'][distance]:.0f} %" for distance in (1, 2)),
            f"{100 * row['induction']:.0f} %",
            number(row["entropy"], 2),
            signed(row["cost"]),
        ]
        for row in found
    ]
    name = "block.head" if has_blocks else "head"
    return markdown([name, "1 back", "2 back", "induction", "entropy", "loss without"], rows)


def sample(inside: File, stage: str) -> str:
    """Returns the last text that a run wrote while it was trained, as a block of code."""
    return f"```text\n{_run(inside, stage)['sample']['text'].strip()}\n```"


def exercises(stage: int) -> str:
    """Returns a list of the exercises of a stage; that of 6 is over all."""
    return "\n".join(
        f"- **{one['id']} {one['title']}** ({one['kind']}). {one['sentence']} "
        f"Write in `{one['file']}`, then `{one['command']}`."
        for one in catalogue.listing()
        if one["stage"] == str(stage)
    )


def n_gram(inside: File, order: int) -> str:
    """Returns the loss of n-grams of an order, counted in the training split, by two digits."""
    return number(measured.value(inside, "n_grams", str(order)), 2)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _run(inside: File, stage: str) -> dict[str, Any]:
    """Returns the record of a run of the ladder."""
    found = {run["name"]: run for run in measured.value(inside, "runs")}
    if stage not in found:
        raise measured.MeasuredError(
            f"{inside.path} has no run {stage!r}: expected one of {', '.join(found)}"
        )
    return found[stage]


def functions(root: Path) -> dict[str, Callable[..., str]]:
    """Returns the functions that a page may call."""
    opened = cache(partial(measured.read, root))

    def of(name: str, function: Callable[..., str]) -> Callable[..., str]:
        return lambda *args: function(opened(name), *args)

    return {
        "bought": of("compare_stages_equal_flops", bought),
        "sizes": of("compare_stages_equal_flops", sizes),
        "without": of("ideas", without),
        "gaps": of("texts", gaps),
        "exercises": exercises,
        "changes": lambda name, columns: changes(opened(name), columns),
        **{one.__name__: of("inside", one) for one in (kinds, heads, sample, n_gram)},
    }
