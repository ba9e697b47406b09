"""The fixture that tests of sweeps compare with equals the answers of W&B's engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import sweep_cases

HERE = Path(__file__).parent


def test_the_fixture_equals_the_answers_of_the_engine(tmp_path):
    result = subprocess.run(
        [sys.executable, "-P", HERE / "wandb_engine.py"],
        input=json.dumps(sweep_cases.cases()),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    kept = json.loads((HERE.parent / "fixtures/wandb_engine.json").read_text())
    # The last bit of a logarithm depends on the processor.
    for ours, theirs in zip(kept.pop("quantiles"), answers.pop("quantiles"), strict=True):
        is_text = any(isinstance(one, str) for one in ours)
        assert theirs == (ours if is_text else pytest.approx(ours, rel=1e-12))
    assert answers == kept
