"""GPT-2 small's training step with 48 windows: whole, and with the loss in chunks of time."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gpu_parts import small
from benchmarks.gpu_parts.finding import Finding
from tracking import run_folder

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
FORMS = {"whole": {}, "8 chunks": {"train.loss_chunks": 8}}


def run(finding: Finding, rehearse: bool) -> None:
    """Records speed and peak memory, a process each; running out of memory is a result."""
    known = run_folder.flatten(small.config_of(48, rehearse).to_dict())
    for name, changes in FORMS.items():
        if not changes.keys() <= known.keys():
            continue
        config = small.config_of(48, rehearse, **changes)
        with tempfile.TemporaryDirectory(prefix="small-48-") as folder, ExitStack() as stack:
            small.save_work(config, Path(folder))
            try:
                worker = small.start_quietly(stack, "benchmarks.ours", folder)
                row = small.speed(worker, config)
            except RuntimeError as error:
                if OUT_OF_MEMORY not in str(error):
                    raise
                row = {"error": f"out of memory: {error}"}
            finding.put(**{name: row})
