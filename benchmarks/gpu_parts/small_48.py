"""GPT-2 small's training step on 48 windows, the loss whole and in chunks of the time axis."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks.gpu_parts import small
from benchmarks.gpu_parts.finding import Finding

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
FORMS = {"whole": {}, "8 chunks": {"train.loss_chunks": 8}}


def run(finding: Finding, rehearse: bool) -> None:
    """Records speed and peak memory, a process each; running out of memory is recorded, too."""
    lines = []
    for name, changes in FORMS.items():
        row = measure(small.config_of(48, rehearse, **changes))
        lines.append(f"{name}: {row.get('error') or summarize(row)}")
        finding.put(**{name: row}, summary="; ".join(lines))


def measure(config: ConfigDict) -> dict:
    """Returns the speed of a config's training step, or the error if it runs out of memory."""
    with tempfile.TemporaryDirectory(prefix="small-48-") as folder, ExitStack() as stack:
        small.save_job(config, Path(folder))
        try:
            return small.speed(small.start_quietly(stack, "benchmarks.ours", folder), config)
        except RuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            return {"error": f"out of memory: {error}"}


def summarize(row: dict) -> str:
    """Returns a line with the time of an update, its MFU and the peak memory."""
    mib = row["device_mib"]["ours"]
    return small.summarize(row) + (f", {mib / 1024:.1f} GiB" if mib else "")
