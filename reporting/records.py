"""The results of runs as data, for other programs and docs/measured: `report.py --data=FILE`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reporting.groups import BOOKKEEPING
from reporting.made_texts import Gap
from reporting.rows import differences
from reporting.runs import Run, number

# Settings that every record has, and with them those that differ between the runs.
ALWAYS = ("model.name", "optimizer.name", "train.flops", "seed")
# Taken from the last line of a run's metrics that has them.
RESULTS = ("val/loss", "val/bits_per_byte", "tokens_seen", "train_flops", "seconds")
# Of the environment, what a result may depend on.
MACHINE = ("device", "num_devices", "num_cpus", "python", "jax", "flax", "git_commit", "precision")


def records(
    runs: Sequence[Run], statements: Sequence[str], gaps: Sequence[Gap] = ()
) -> dict[str, Any]:
    """Returns where the runs were made, what they share, the findings, and a record of each run.

    A value that a run lacks is None. `gaps` are those of made texts.
    """
    differ, _ = differences(runs)
    keys = dict.fromkeys([*ALWAYS, *(key for key in differ if key in runs[0].config)])
    return {
        "machines": where(runs),
        "shared": {
            key: value
            for key, value in runs[0].config.items()
            if key not in keys and not key.startswith(BOOKKEEPING)
        },
        "findings": list(statements),
        **({"gaps": [asdict(one) for one in gaps]} if gaps else {}),
        "runs": [
            {
                "name": run.name,
                "status": run.status,
                **{key: run.config.get(key) for key in keys},
                "num_params": number(run.summary.get("num_params")),
                **{name: run.last(name) for name in RESULTS},
            }
            for run in runs
        ],
    }


def where(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the machines, versions and commits that made the runs, each once."""
    machines = [{key: run.environment.get(key) for key in MACHINE} for run in runs]
    return [one for i, one in enumerate(machines) if one not in machines[:i]]
