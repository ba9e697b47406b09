"""Early termination as W&B's `early_terminate: {type: hyperband}` does it.

Li et al., "Hyperband" (2016), section 3, but asynchronous: a run that has logged the metric as
often as a band requires continues if it is among the best 1/eta of all runs that reached the band.
An iteration is one logged value of the metric, at any step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, repeat, takewhile
from operator import mul, truediv


@dataclass(frozen=True)
class Hyperband:
    """The `early_terminate` section of a sweep file; with `max_iter`, there are `s` bands."""

    eta: float = 3
    min_iter: float = 1
    max_iter: float | None = None
    s: float = 0
    strict: bool = True

    def bands(self) -> list[int]:
        """Returns the counts of logged values at which a run is judged, ascending."""
        # One factor at a time, as W&B's engine does: powers could round differently.
        if self.max_iter is None:
            # No run logs 3 ** 100 values.
            ascending = accumulate(repeat(self.eta), mul, initial=self.min_iter)
            return [int(band) for band in islice(ascending, 100)]
        descending = accumulate(repeat(self.eta), truediv, initial=self.max_iter / self.eta)
        bands = islice(descending, math.ceil(self.s))
        return sorted(int(band) for band in takewhile(lambda band: band >= 1, bands))

    def runs_to_stop(
        self, histories: Mapping[str, Sequence[float]], running: Sequence[str]
    ) -> set[str]:
        """Returns the names of the `running` runs to stop.

        `histories` has the finite costs (lower is better) of every run so far, by name.
        """
        bands, stop = self.bands(), set()
        for name in running:
            history = histories[name]
            if passed := [band for band in bands if band <= len(history)]:
                band = passed[-1]
                cost = history[band - 1] if self.strict else min(history)
                costs = sorted(one[band - 1] for one in histories.values() if len(one) >= band)
                # 1 / eta first: again the engine's rounding.
                if cost > costs[int(1 / self.eta * len(costs))]:
                    stop.add(name)
        return stop
