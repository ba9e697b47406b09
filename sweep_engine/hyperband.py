"""Early termination as W&B's `early_terminate: {type: hyperband}` does it.

Li et al., "Hyperband" (2016), section 3, but asynchronous: a run that has logged the metric as
often as a band says goes on if it is among the best 1/eta of all runs that came so far. Iterations
are values of the metric that were logged, whatever their step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Hyperband:
    """The `early_terminate` section of a sweep file; the number of bands s goes with max_iter."""

    eta: float = 3
    min_iter: int | None = None
    max_iter: int | None = None
    s: int = 0
    strict: bool = True

    def bands(self) -> list[int]:
        """How many logged values a run is judged at, ascending."""
        # Step by step, as W&B's engine does: powers could be rounded otherwise.
        bands, band = [], self.min_iter
        if self.max_iter is None:
            # A run of 3 ** 100 values will not come.
            while len(bands) < 100:
                bands.append(int(band))
                band *= self.eta
            return bands
        band = self.max_iter / self.eta
        while len(bands) < self.s and band >= 1:
            bands.append(int(band))
            band /= self.eta
        return sorted(bands)

    def to_stop(self, histories: Mapping[str, Sequence[float]], running: Sequence[str]) -> set[str]:
        """Which of the `running` runs to stop.

        `histories` has the finite values of the metric of every run so far, the lower the better.
        """
        bands = self.bands()
        thresholds = [self._threshold(band, histories.values()) for band in bands]
        stop = set()
        for name in running:
            history = histories[name]
            passed = [i for i, band in enumerate(bands) if band <= len(history)]
            if passed:
                at = passed[-1]
                value = history[bands[at] - 1] if self.strict else min(history)
                if value > thresholds[at]:
                    stop.add(name)
        return stop

    def _threshold(self, band: int, histories: Sequence[Sequence[float]]) -> float:
        """The worst value at a band that is still good enough to go on."""
        values = sorted(history[band - 1] for history in histories if len(history) >= band)
        # 1 / eta first: again the engine's rounding.
        return values[int(1 / self.eta * len(values))] if values else inf
