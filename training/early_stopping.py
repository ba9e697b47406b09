"""Early stopping: ends a run whose validation loss no longer improves.

Its state is the record: the lines of metrics.jsonl up to the checkpoint that a run resumes from are
those that the uninterrupted run has. So a resumed run stops at the same step, and other values of
`eval.patience` and `eval.min_delta` judge all evaluations, the earlier ones too.
"""

import math
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict


class EarlyStopping:
    """Counts the evaluations without an improvement of `eval.min_delta` or more.

    An improvement is measured from the last evaluation that was one, so that many small ones add
    up. The fresh model's evaluation is the first.
    """

    def __init__(self, config: ConfigDict, lines: Iterable[dict[str, Any]]) -> None:
        """`config` is a config's `eval`; `lines` are those of the record."""
        self._patience, self._min_delta = config.patience, config.min_delta
        self._best, self._best_step, self._count = math.inf, 0, 0
        for line in lines:
            if "val/loss" in line:
                self.note(line["step"], line["val/loss"])

    def note(self, step: int, val_loss: float) -> None:
        """Counts the evaluation after `step` updates."""
        if val_loss < self._best and self._best - val_loss >= self._min_delta:
            self._best, self._best_step, self._count = val_loss, step, 0
        else:
            self._count += 1

    @property
    def reason(self) -> str:
        """The reason to stop now; "" to go on."""
        if not 0 < self._patience <= self._count:
            return ""
        by = f"by {self._min_delta:g} or more " if self._min_delta else ""
        return (
            f"val/loss has not improved {by}since step {self._best_step} ({self._best:.4f}), "
            f"in {self._count} evaluation{'s' * (self._count > 1)} (eval.patience)"
        )
