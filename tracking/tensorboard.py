"""The TensorBoard sink: event files in the run folder, which `tensorboard --logdir` shows.

Only the formats are tensorboardX's. Its own writer hands events to a thread: a full disk ends that
without an error. This one has written a line, or raised OSError, when the call returns.
"""

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams

import run_folder
from tracking.sink import Model, Sink

# Columns of the table of hyperparameters, besides the config.
COMPARED = ("val/loss", "val/bits_per_byte")


class TensorBoard(Sink):
    """Sink that writes scalars under the record's names, samples as text, and the config.

    Each process adds a file, which begins with the step from which TensorBoard drops what it read
    before: a resumed run measures those steps again. `earlier` are the lines of the record from
    before the run was resumed; they are written if it began without this sink.
    """

    def __init__(
        self, workdir: Path, config: ConfigDict, resumed_from: int | None, earlier: Sequence[dict]
    ) -> None:
        folder = workdir / run_folder.TENSORBOARD
        folder.mkdir(exist_ok=True)
        is_first = not any(folder.iterdir())
        # Read in the order of their names.
        self._path = folder / f"events.out.tfevents.{_now():.6f}"
        self._append(0, file_version="brain.Event:2")
        again = 0 if resumed_from is None else resumed_from + 1
        self._append(again, session_log=SessionLog(status=SessionLog.START))
        values = run_folder.flatten(config.to_dict(), "config.")
        *opening, self._end = hparams(
            {key: ",".join(x) if isinstance(x, tuple) else x for key, x in values.items()},
            dict.fromkeys(COMPARED),
        )
        for summary in opening:
            self._append(0, summary=summary)
        for line in earlier if is_first else ():
            step, rest = line["step"], {key: x for key, x in line.items() if key != "step"}
            self.log_sample(step, **rest) if "text" in rest else self.log(step, rest)

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Appends a line of metrics."""
        # The record has null for a number that is not finite.
        values = {key: float("nan") if x is None else x for key, x in metrics.items()}
        scalars = [Summary.Value(tag=key, simple_value=x) for key, x in values.items()]
        self._append(step, summary=Summary(value=scalars))

    def log_sample(self, step: int, prompt: str, text: str) -> None:
        """Appends a sample."""
        # Indented, for TensorBoard reads Markdown: else lines would be joined, and * be bold.
        shown = "".join(f"    {line}\n" for line in (prompt + text).split("\n"))
        encoded = [shown.encode(errors="backslashreplace")]
        content = TensorProto(
            dtype="DT_STRING", string_val=encoded, tensor_shape=TensorShapeProto()
        )
        kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        value = Summary.Value(tag="samples", metadata=kind, tensor=content)
        self._append(step, summary=Summary(value=[value]))

    def finish(self, summary: Mapping[str, Any], exit_code: int, model: Model | None) -> None:
        """Marks the run as done, if it is."""
        if exit_code == 0:
            self._append(0, summary=self._end)

    def _append(self, step: int, **content: Any) -> None:
        event = Event(wall_time=_now(), step=step, **content).SerializeToString()
        # A TFRecord: the length, the content, and the checksum of each.
        length = struct.pack("<Q", len(event))
        with open(self._path, "ab") as file:
            file.write(length + _checksum(length) + event + _checksum(event))


def _now() -> float:
    """Returns the date and time as TensorBoard shows it, in seconds since 1970."""
    return datetime.now(UTC).timestamp()


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))
