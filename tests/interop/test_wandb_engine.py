"""What the tests of sweeps take for the answers of W&B's engine is what it answers today."""

import json
import subprocess
import sys
from pathlib import Path

from tests import sweep_cases

HERE = Path(__file__).parent


def test_the_engine_still_answers_so(tmp_path):
    result = subprocess.run(
        [sys.executable, "-P", HERE / "wandb_engine.py"],
        input=json.dumps(sweep_cases.cases()),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    kept = (HERE.parent / "fixtures/wandb_engine.json").read_text()
    assert json.loads(result.stdout) == json.loads(kept)
