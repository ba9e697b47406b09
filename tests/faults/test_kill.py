"""The short form of `make soak`: kills at random moments lose nothing."""

import pytest

from tests.faults.harness import PHASES, Harness


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path):
    harness = Harness(tmp_path, seed=20261124, stages=["gpt2"])
    try:
        harness.run(kills=16)
    finally:
        harness.close()
    assert harness.killed.total() >= 16
    # Each phase that the run marks has been hit.
    assert set(PHASES) <= set(harness.killed), harness.killed
