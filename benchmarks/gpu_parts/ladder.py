"""The five stages at the defaults of their files, one after another, by the users' command."""

import tempfile
from pathlib import Path

import run_folder
from benchmarks import commands
from benchmarks.gpu_parts.finding import Finding
from experiments import default

KEPT = ("val/loss", "best/val/loss", "seconds", "wall_seconds", "num_params")


def run(finding: Finding, rehearse: bool) -> None:
    """Records losses, and seconds of training and of the whole command."""
    preset, lines = ":smoke" if rehearse else "", []
    # A rehearsal has trained the other stages in `stages`.
    stages = default.LADDER[::4] if rehearse else default.LADDER
    with tempfile.TemporaryDirectory(prefix="ladder-") as folder:
        for stage in stages:
            workdir = Path(folder, stage)
            commands.finish(commands.start_training(f"{stage}.py{preset}", workdir))
            summary = run_folder.read_object(workdir / run_folder.SUMMARY)
            lines.append(f"{summary['val/loss']:.3f} in {summary['seconds']:.1f} s")
            finding.put(**{stage: {key: summary[key] for key in KEPT}}, summary=", ".join(lines))
