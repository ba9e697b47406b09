"""The results of runs as data, for other programs and docs/measured: `report.py --data=FILE`."""

from collections.abc import Sequence
from typing import Any

from reporting.rows import differences
from reporting.runs import Run, number

# Taken from the last line of a run's metrics that has them.
RESULTS = ("val/loss", "val/bits_per_byte", "tokens_seen", "train_flops", "seconds")
# Of the environment, what a result may depend on.
MACHINE = ("device", "num_devices", "num_cpus", "python", "jax", "flax", "git_commit")


def records(runs: Sequence[Run], statements: Sequence[str]) -> dict[str, Any]:
    """Returns where the runs were made, what they share, the findings, and a record of each run.

    A record has the settings that differ between runs, and its results; missing ones are None.
    """
    differ, shared = differences(runs)
    machines = [{key: run.environment.get(key) for key in MACHINE} for run in runs]
    return {
        "machines": [one for i, one in enumerate(machines) if one not in machines[:i]],
        "shared": shared,
        "findings": list(statements),
        "runs": [
            {
                "name": run.name,
                **{key: texts[i] for key, texts in differ.items()},
                "num_params": number(run.summary.get("num_params")),
                **{name: run.last(name) for name in RESULTS},
            }
            for i, run in enumerate(runs)
        ],
    }
