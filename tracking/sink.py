"""Base class of all sinks, and the checkpoint that a run may hand to them at its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Model(NamedTuple):
    """Checkpoint of a run, to be kept where the run is tracked."""

    folder: Path
    step: int
    val_loss: float | None
    aliases: list[str]  # Of "best" and "latest", those that it is.


class Sink:
    """Destination of a run's metrics and samples. Without a method of its own a sink does nothing.

    No method may wait for the network, a terminal or another process, except `finish`, for a
    bounded time.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics measured after `step` updates."""

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Writes a generated `text`, the continuation of `prompt`."""

    def note(self, message: str) -> None:
        """Shows a message that is neither a metric nor a sample."""

    def alert(self, title: str, text: str) -> None:
        """Tells whoever watches the run from afar that it went wrong."""

    def finish(self, summary: Mapping[str, Any], exit_code: int, model: Model | None) -> None:
        """Writes the summary, keeps the model if there is one, and closes the sink."""
