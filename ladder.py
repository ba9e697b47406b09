"""The main job: trains the five stages in turn, the last one also for longer, and compares them.

    python ladder.py --workdir=runs/ladder

Stages 2 to 5 get the same training compute, so that neighbours differ by the idea alone, each with
the size and the settings that suit it best (docs/comparison.md). The command leaves a finished
stage alone and resumes an interrupted one: the same command continues.
"""

import signal
import subprocess
import sys

from absl import flags

from experiments import comparison, default
from runtime import errors, signals

WORKDIR = flags.DEFINE_string("workdir", "runs/ladder", "Folder of the run folders.")
PRESET = flags.DEFINE_string("preset", "", "Preset of every stage, such as smoke; none: full size.")

# Of stages 2 to 5, in training FLOPs, and of the last one again.
BUDGET, LARGER_BUDGET = "3e12", "1e13"
OPTIMIZER = "muon"
LAST = default.LADDER[-1]
LONGER = f"{LAST}-{LARGER_BUDGET}"
# Curves need more points than the comparison's protocol has.
INTERVALS = ("--config.eval.every_steps=500", "--config.sample.every_steps=500")


def main() -> None:
    runs = {stage: experiment(stage, BUDGET) for stage in default.LADDER}
    ratio = float(LARGER_BUDGET) / float(BUDGET)
    runs[LONGER] = [
        *experiment(LAST, LARGER_BUDGET),
        f"--config.tracking.stage={len(runs) + 1}",
        f"--config.tracking.group={LONGER}",
        f"--config.tracking.notes=the same, with {ratio:.1f} x the compute",
    ]
    for number, (name, words) in enumerate(runs.items(), start=1):
        print(f"run {number} of {len(runs)}: {name}", flush=True)
        workdir = f"--workdir={WORKDIR.value}/{name}"
        run("main.py", *words, workdir, "--config.checkpoint.resume=true")
    run("report.py", WORKDIR.value, f"--output={WORKDIR.value}/report.html")


def experiment(stage: str, budget: str) -> list[str]:
    """Returns the flags of a stage's run: the best point for a budget, with the preset's changes.

    The table of bigrams, and a stage that is at its floor before, get less.
    """
    presets = []
    if stage in comparison.STAGES:
        presets.append(f"flops-{comparison.within(stage, OPTIMIZER, budget)}-{OPTIMIZER}")
    if PRESET.value:
        presets.append(PRESET.value.removeprefix(":"))
    config = f"--config=experiments/{stage}.py" + (":" + "+".join(presets) if presets else "")
    return [config] if PRESET.value else [config, *INTERVALS]


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
