"""The short form of `make soak`: processes that stop at random moments lose nothing."""

import pytest

from tests.faults.harness import PHASES, Harness
from tests.faults.of_processes import OfProcesses


@pytest.mark.long
def test_kills_at_random_moments_lose_nothing(tmp_path):
    harness = Harness(tmp_path, seed=20261124, stages=["gpt2"])
    try:
        harness.run(kills=16)
    finally:
        harness.close()
    assert harness.killed.total() >= 16
    # Each phase that the run marks has been hit.
    assert set(PHASES) <= set(harness.killed), harness.killed


@pytest.mark.long
def test_one_of_two_processes_that_stops_loses_nothing(tmp_path):
    harness = OfProcesses(tmp_path, seed=3, stages=["self_attention"])
    harness.phases = set()
    try:
        harness.run(kills=5)
    finally:
        harness.close()
