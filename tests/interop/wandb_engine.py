"""Runs W&B's engine, the package `sweeps`, on cases from standard input; prints JSON.

Run as a process of its own with `python -P`, for the harness has a folder of that name, too.
"""

import json
import sys

import numpy as np
from sweeps.hyperband_stopping import hyperband_stop_runs
from sweeps.params import HyperParameter

from sweeps import next_run
from sweeps.run import SweepRun


def main() -> None:
    cases = json.load(sys.stdin)
    answers = {
        "quantiles": [quantiles(given, cases["shares"]) for given in cases["parameters"]],
        "grids": [grid(parameters) for parameters in cases["grids"]],
        "stopped": [stopped(case) for case in cases["hyperband"]],
    }
    json.dump(answers, sys.stdout, default=np.generic.item, indent=0)


def quantiles(given: dict, shares: list[float]) -> list:
    """Returns a parameter's quantile at each share."""
    parameter = HyperParameter("x", given)
    return [parameter.ppf(share) for share in shares]


def grid(parameters: dict) -> list[dict]:
    """Returns the points of a grid in order."""
    runs: list[SweepRun] = []
    while run := next_run({"method": "grid", "parameters": parameters}, runs):
        runs.append(run)
    return [{name: entry["value"] for name, entry in run.config.items()} for run in runs]


def stopped(case: dict) -> list[str]:
    """Returns the names of the runs that hyperband stops."""
    runs = [
        SweepRun(
            name=run["name"],
            state=run["state"],
            history=[{"loss": np.nan if loss is None else loss} for loss in run["history"]],
        )
        for run in case["runs"]
    ]
    config = {
        "method": "random",
        "metric": {"name": "loss", "goal": case["goal"]},
        "early_terminate": case["early_terminate"],
        "parameters": {"x": {"value": 1}},
    }
    return sorted(run.name for run in hyperband_stop_runs(runs, config))


if __name__ == "__main__":
    main()
