"""The main job: trains the five stages in turn, then compares them.

    python ladder.py --workdir=runs/ladder

It leaves a finished stage alone and resumes an interrupted one: the same command continues.
"""

import signal
import subprocess
import sys

from absl import flags

from experiments import default
from runtime import errors, signals

WORKDIR = flags.DEFINE_string("workdir", "runs/ladder", "Folder of the five run folders.")
PRESET = flags.DEFINE_string("preset", "", "Preset of every stage, such as smoke; none: full size.")


def main() -> None:
    preset = f":{PRESET.value.removeprefix(':')}" if PRESET.value else ""
    for number, stage in enumerate(default.LADDER, start=1):
        print(f"stage {number} of {len(default.LADDER)}: {stage}", flush=True)
        run(
            "main.py",
            f"--config=experiments/{stage}.py{preset}",
            f"--workdir={WORKDIR.value}/{stage}",
            "--config.checkpoint.resume=true",
        )
    run("report.py", WORKDIR.value, f"--output={WORKDIR.value}/report.html")


def run(command: str, *arguments: str) -> None:
    """Runs another command of the root, and passes signals on to it.

    Exits if it fails, or after a signal, even if the command had ended by itself.
    """
    received: list[int] = []
    child = None

    def forward(number: int, frame: object) -> None:
        received.append(number)
        if child:
            child.send_signal(number)

    # Before the child starts: no signal reaches this process alone.
    before = {number: signal.signal(number, forward) for number in signals.SIGNALS}
    # In a process group of its own, or Ctrl-C would reach it twice and stop it without saving.
    child = subprocess.Popen([sys.executable, command, *arguments], process_group=0)
    code = child.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if code or received:
        sys.exit(code if code > 0 else 128 + (received[0] if received else -code))


if __name__ == "__main__":
    errors.run_command(main)
