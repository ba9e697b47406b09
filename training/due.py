"""The steps of a run at which something is due."""

import time


class Due:
    """Tells what is due after a step: a log line, an evaluation, a sample, a checkpoint.

    Everything is due at the last step, and an evaluation and a sample before the first one. An
    interval of 0 steps adds no other step; `sample` may be None, for no sample at all.
    """

    def __init__(
        self,
        num_steps: int,
        *,
        log: int,
        evaluate: int,
        sample: int | None,
        save: int,
        save_minutes: float = 0.0,
    ) -> None:
        self._num_steps = num_steps
        self._log, self._evaluate, self._sample, self._save = log, evaluate, sample, save
        self._save_seconds = 60 * save_minutes
        self.saved()

    def next(self, step: int, end: int) -> int:
        """Returns the first step after `step`, and at most `end`, at which something is due."""
        intervals = self._log, self._evaluate, self._sample, self._save
        return min([end, *((step // every + 1) * every for every in intervals if every)])

    def at(self, step: int) -> bool:
        """Returns True if anything is due after `step`."""
        return self.log(step) or self.evaluate(step) or self.sample(step) or self.save(step)

    def log(self, step: int) -> bool:
        """Returns True if the training metrics are due; the fresh model has none."""
        return step > 0 and self._divides(self._log, step)

    def evaluate(self, step: int) -> bool:
        """Returns True if an evaluation is due; the fresh model is evaluated, too."""
        return self._divides(self._evaluate, step)

    def sample(self, step: int) -> bool:
        """Returns True if a sample is due; the fresh model writes one, too."""
        return self._sample is not None and self._divides(self._sample, step)

    def save(self, step: int) -> bool:
        """Returns True if a checkpoint is due: by step, with each evaluation, or by the clock."""
        if step == 0:
            return False
        minutes_are_over = 0 < self._save_seconds <= time.monotonic() - self._saved_at
        return self.evaluate(step) or self._divides(self._save, step) or minutes_are_over

    def saved(self) -> None:
        """Starts the minutes until the next checkpoint anew."""
        self._saved_at = time.monotonic()  # A clock that nobody can set back.

    def _divides(self, every: int, step: int) -> bool:
        return step in (0, self._num_steps) or (every > 0 and step % every == 0)
