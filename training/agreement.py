"""The processes of a run agree, in the training step itself, on when to stop and when to save.

A signal may reach one process alone, and clocks differ. Each process has its wish in the arguments
of a dispatch, and its result holds the greatest of all: no other program, and no waiting. All
processes read it after the same dispatch, so that they act after the same step.
"""

import jax
from jax.sharding import Mesh

from runtime import cluster, devices
from runtime.signals import Stop
from training.due import Due
from training.step import Metrics

# A wish is one of these, or the number of the signal that asks to stop: at least 2.
NOTHING, SAVE = 0, 1


class Agreement:
    """The wishes of this process, and what all have agreed on. A process alone needs none."""

    def __init__(self, mesh: Mesh, stop: Stop, due: Due) -> None:
        self._mesh, self._stop, self._due = mesh, stop, due

    def ask(self, metrics: Metrics) -> Metrics:
        """Returns `metrics` with this process's wish, for the next dispatch."""
        if metrics.wishes is None:
            return metrics
        is_time = cluster.is_first() and self._due.minutes_are_over()
        wish = self._stop.number or (SAVE if is_time else NOTHING)
        return metrics._replace(wishes=devices.one_each(wish, self._mesh))

    def hear(self, metrics: Metrics) -> None:
        """Tells `stop` and `due` what the processes wished in the dispatch of `metrics`."""
        if metrics.wishes is None:
            return
        wish = int(jax.device_get(metrics.wishes.addressable_data(0))[0])
        if wish == SAVE:
            self._due.ask_to_save()
        elif wish != NOTHING:
            self._stop.agree(wish)
