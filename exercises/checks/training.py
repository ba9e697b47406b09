"""Short runs of the harness in a temporary folder, with nothing printed."""

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import harness
from exercises.learner import Wrong
from runtime.errors import Diverged, UserError

# Evaluates at the first and the last step alone; writes no text and no mirror of the record.
QUIET = {
    "tracking.sinks": (),
    "sample.num_tokens": 0,
    "eval.every_steps": 0,
    "checkpoint.every_steps": 0,
}


def val_loss(experiment: str, changes: dict[str, Any]) -> float:
    """Returns the validation loss after a run. Raises Wrong for one that can't be trained."""
    with tempfile.TemporaryDirectory(prefix="exercise-") as folder:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                run = harness.train(experiment, Path(folder, "run"), **changes, **QUIET)
            return float(run.summary["val/loss"])
        except (UserError, Diverged) as error:
            raise Wrong(" ".join(str(error).split())) from None
