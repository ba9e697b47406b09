"""The steps of a run at which something is due."""

import time
from collections.abc import Collection

# Shares of a run's steps. On a logarithmic axis they are evenly spaced.
MILESTONES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def milestones(num_steps: int) -> list[int]:
    """Returns the steps at 1, 2, 5, 10, 20 and 50 % of a run."""
    return sorted({max(1, round(share * num_steps)) for share in MILESTONES})


class Due:
    """Tells what is due after a step: a log line, norms, an evaluation, a sample, a checkpoint.

    Everything is due at the last step, and an evaluation and a sample of the fresh model, step 0.
    The first step is a dispatch of its own, for the fresh model may be evaluated after it. An
    interval of 0 steps adds no other step; `sample` may be None, for no sample at all, and `norms`
    0, for none at all. Further steps are `evaluate_at` and `sample_at`; snapshots are due at
    `snapshot_at` alone. Without a clock of its own, it is told when minutes are over.
    """

    def __init__(
        self,
        num_steps: int,
        *,
        log: int,
        evaluate: int,
        sample: int | None,
        save: int,
        norms: int = 0,
        save_minutes: float = 0.0,
        has_clock: bool = True,
        evaluate_at: Collection[int] = (),
        sample_at: Collection[int] = (),
        snapshot_at: Collection[int] = (),
    ) -> None:
        self._num_steps = num_steps
        self._log, self._evaluate, self._sample, self._save = log, evaluate, sample, save
        self._norms = norms
        self._evaluate_at, self._sample_at = evaluate_at, sample_at
        self._snapshot_at = snapshot_at
        self._save_seconds = 60 * save_minutes
        self._has_clock = has_clock
        self.saved()

    def next(self, step: int, end: int) -> int:
        """Returns the first step after `step`, and at most `end`, at which something is due."""
        intervals = self._log, self._norms, self._evaluate, self._sample, self._save
        multiples = ((step // every + 1) * every for every in intervals if every)
        single = (*self._evaluate_at, *self._sample_at, *self._snapshot_at)
        return min([end, *multiples, *(one for one in (1, *single) if one > step)])

    def at(self, step: int) -> bool:
        """Returns True if anything is due after `step`, the first one included."""
        asks = self.log, self.evaluate, self.sample, self.save, self.snapshot
        return step == 1 or any(is_due(step) for is_due in asks)

    def log(self, step: int) -> bool:
        """Returns True if the training metrics are due; the fresh model has none."""
        return step > 0 and (self._divides(self._log, step) or self.norms(step))

    def norms(self, step: int) -> bool:
        """Returns True if the norms of layers are due, in the line of the training metrics."""
        return step > 0 and self._norms > 0 and self._divides(self._norms, step)

    def evaluate(self, step: int) -> bool:
        """Returns True if an evaluation is due; the fresh model is evaluated, too."""
        return self._divides(self._evaluate, step) or step in self._evaluate_at

    def sample(self, step: int) -> bool:
        """Returns True if a sample is due; the fresh model writes one, too."""
        if self._sample is None:
            return False
        return self._divides(self._sample, step) or step in self._sample_at

    def save(self, step: int) -> bool:
        """Returns True if a checkpoint is due: by step, with each evaluation, or by the clock."""
        if step == 0:
            return False
        by_clock = self._is_asked or (self._has_clock and self.minutes_are_over())
        return self.evaluate(step) or self._divides(self._save, step) or by_clock

    def minutes_are_over(self) -> bool:
        """Returns True if the last checkpoint is too old."""
        return 0 < self._save_seconds <= time.monotonic() - self._saved_at

    def ask_to_save(self) -> None:
        """Makes a checkpoint due after the next step, whichever it is."""
        self._is_asked = True

    def snapshot(self, step: int) -> bool:
        """Returns True if a snapshot is due."""
        return step in self._snapshot_at

    def end_at(self, step: int) -> None:
        """Makes `step` the last one."""
        self._num_steps = step

    def saved(self) -> None:
        """Starts the minutes until the next checkpoint anew."""
        self._saved_at = time.monotonic()  # A clock that nobody can set back.
        self._is_asked = False

    def _divides(self, every: int, step: int) -> bool:
        return step in (0, self._num_steps) or (every > 0 and step % every == 0)
