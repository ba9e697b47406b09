"""Test cases for which fixtures/wandb_engine.json has the answers of W&B's own engine.

The engine is the package `sweeps`, which needs an environment of its own; `make interop` compares
its answers with the fixture. To write the fixture: `python -m tests.sweep_cases |
.venv-peers/bin/python -P tests/interop/wandb_engine.py > tests/fixtures/wandb_engine.json`.
"""

import json
import random

SHARES = [0.001, 0.1, 0.249, 0.37, 0.5, 0.63, 0.77, 0.9, 0.999]
PARAMETERS = [
    {"value": 3},
    {"values": ["a", "b", "c"]},
    {"values": [1, 2, 5, 9]},
    {"values": ["a", "b", "c"], "probabilities": [0.2, 0.5, 0.3]},
    {"min": 1, "max": 10},
    {"min": -3, "max": 4, "distribution": "int_uniform"},
    {"min": 0.5, "max": 2.5},
    {"min": 0, "max": 3, "distribution": "uniform"},
    {"min": 0, "max": 10, "distribution": "q_uniform"},
    {"min": 0, "max": 10, "q": 2, "distribution": "q_uniform"},
    {"min": 0.0, "max": 1.0, "q": 0.25, "distribution": "q_uniform"},
    {"min": -3, "max": 1, "distribution": "log_uniform"},
    {"min": 1e-4, "max": 0.1, "distribution": "log_uniform_values"},
    {"min": 0, "max": 4, "q": 3, "distribution": "q_log_uniform"},
    {"min": 1, "max": 500, "q": 8, "distribution": "q_log_uniform_values"},
    {"min": 1, "max": 3, "distribution": "inv_log_uniform"},
    {"min": 1e-3, "max": 3, "distribution": "inv_log_uniform_values"},
    {"distribution": "normal"},
    {"mu": 5, "sigma": 2, "distribution": "normal"},
    {"mu": 5, "sigma": 2, "q": 1, "distribution": "q_normal"},
    {"mu": 1, "sigma": 0.5, "distribution": "log_normal"},
    {"mu": 2, "sigma": 1, "q": 0.5, "distribution": "q_log_normal"},
    {"a": 2, "b": 5, "distribution": "beta"},
    {"a": 2, "b": 5, "q": 0.1, "distribution": "q_beta"},
]
GRIDS = [
    {"config.b": {"values": [1, 2, 3]}, "config.a": {"values": ["x", "y"]}},
    {"z": {"min": 1, "max": 3}, "fixed": {"value": 7}, "a": {"values": [True, False]}},
    {"q": {"min": 0.0, "max": 1.0, "q": 0.25, "distribution": "q_uniform"}},
]
TERMINATIONS = [
    {"min_iter": 1},
    {"min_iter": 2, "eta": 2},
    {"min_iter": 3, "eta": 1.5, "strict": False},
    {"max_iter": 9, "s": 2},
    {"max_iter": 27, "s": 3, "eta": 3, "strict": False},
    {"max_iter": 10, "s": 4, "eta": 1.7, "strict": True},
]


def hyperband_cases() -> list[dict]:
    """Returns random running sweeps on a synthetic objective, some with values that are None."""
    draw = random.Random(0)
    return [
        {
            "early_terminate": {"type": "hyperband", **draw.choice(TERMINATIONS)},
            "goal": draw.choice(["minimize", "maximize"]),
            "runs": [
                {
                    "name": f"run{number}",
                    "state": draw.choice(["running", "running", "finished", "killed"]),
                    "history": objective(draw),
                }
                for number in range(draw.randint(1, 30))
            ],
        }
        for _ in range(150)
    ]


def objective(draw: random.Random) -> list[float | None]:
    """Returns losses that fall towards a random level, rounded so that some are equal."""
    level, length = draw.uniform(1, 3), draw.randint(0, 30)
    losses = [round(level + 2 / (step + 1) + draw.gauss(0, 0.1), 1) for step in range(length)]
    return [None if draw.random() < 0.05 else loss for loss in losses]


def cases() -> dict:
    """Returns all cases, to be written as JSON."""
    return {
        "parameters": PARAMETERS,
        "shares": SHARES,
        "grids": GRIDS,
        "hyperband": hyperband_cases(),
    }


if __name__ == "__main__":
    print(json.dumps(cases()))
