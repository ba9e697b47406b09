"""The progress of a run: tokens, FLOPs and seconds so far, its speed, and its best score."""

import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

from training.step import Flops


class Progress:
    """The numbers that a checkpoint keeps beside the state, and a stopwatch for training alone."""

    def __init__(
        self,
        saved: dict[str, Any],
        tokens_per_step: int,
        count_flops: Callable[[], Flops],
        peak_flops: float | None,
    ):
        """`saved` is of `as_saved`; `peak_flops` are a second, None where they are unknown.

        `count_flops` gives those of a step, in a second or two.
        """
        self.seconds: float = saved["seconds"]
        self.skipped: int = saved["skipped"]
        self.best = {key: saved[key] for key in ("best/val/loss", "best/step")}
        self._logged = saved.get("logged", {"tokens_seen": 0, "seconds": 0.0})
        self._tokens_per_step = tokens_per_step
        self._count_flops = count_flops
        self._peak_flops = peak_flops
        self._started = 0.0

    @cached_property
    def flops(self) -> Flops:
        """The floating-point operations of a step, counted when they are first asked for."""
        return self._count_flops()

    def as_saved(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        numbers = {"seconds": self.seconds, "skipped": self.skipped, **self.best}
        return {**numbers, "logged": self._logged}

    def start_clock(self) -> None:
        """Starts or resumes counting seconds of training."""
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        """Stops counting while anything but training is done."""
        self.seconds += time.perf_counter() - self._started

    def position(self, step: int) -> dict[str, float]:
        """Returns how far the run is, in the units that runs are compared by."""
        return {
            "tokens_seen": step * self._tokens_per_step,
            "train_flops": step * self.flops.total if step else 0.0,
            # The fresh model is measured after the first update.
            "seconds": self.seconds if step else 0.0,
        }

    def speed_since_last(self, step: int) -> dict[str, float]:
        """Returns tokens per second since the last call, and model FLOPs utilization if known."""
        before, now = self._logged, self.position(step)
        self._logged = now
        tokens = now["tokens_seen"] - before["tokens_seen"]
        speed = {"train/tokens_per_second": tokens / (now["seconds"] - before["seconds"])}
        if self._peak_flops:
            flops_per_token = self.flops.gradient / self._tokens_per_step
            per_second = speed["train/tokens_per_second"] * flops_per_token
            speed["train/mfu"] = per_second / self._peak_flops
        return speed

    def note_score(self, step: int, val_loss: float) -> None:
        """Remembers the best validation loss and its step."""
        if val_loss < self.best["best/val/loss"]:
            self.best = {"best/val/loss": val_loss, "best/step": step}


def fresh() -> dict[str, Any]:
    """Returns the progress of a run before its first step, as `as_saved` has it."""
    return {"seconds": 0.0, "best/val/loss": math.inf, "best/step": 0, "skipped": 0}
