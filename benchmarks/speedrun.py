"""Loss and time of the speedruns: `make speedrun`.

Trains each speedrun of experiments/gpt2.py with three seeds, one after another, by the command that
users run. Writes benchmarks/speedrun.json: the loss on the whole validation split, and the seconds
of training without compiling and evaluating. docs/speedrun.md is the table of records.
"""

import tempfile
from pathlib import Path

from absl import flags

import run_folder
from benchmarks import checks, commands, results
from runtime import errors

FORMS = ["speedrun_5s", "speedrun_30s", "speedrun", "speedrun_180s", "baby_best"]

PRESETS = flags.DEFINE_list("presets", FORMS, "Speedruns to train.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds to train with.")
OUTPUT = flags.DEFINE_string(
    "output", str(commands.ROOT / "benchmarks/speedrun.json"), "File to write."
)


def main() -> None:
    """Trains the chosen speedruns and writes a row for each run."""
    checks.check_choices("presets", PRESETS.value, FORMS)
    if wrong := [one for one in SEEDS.value if not one.isdecimal()]:
        raise errors.UserError(f"--seeds={','.join(wrong)}: expected whole numbers from 0 on")
    checks.check_output(OUTPUT.value)
    output, machine = Path(OUTPUT.value), results.host()
    rows = measured_before(output, machine)
    for preset in PRESETS.value:
        for seed in map(int, SEEDS.value):
            row = {"preset": preset, "seed": seed, **train(preset, seed)}
            print(row, flush=True)
            rows = results.replaced(rows, row, ("preset", "seed"))
            rows.sort(key=lambda one: (FORMS.index(one["preset"]), one["seed"]))
            run_folder.write_json(output, {"machine": machine, "rows": rows})


def measured_before(output: Path, machine: dict) -> list[dict]:
    """Returns the rows of a file that were measured on this machine."""
    before = results.read(output) or {}
    return before["rows"] if results.is_same_machine(before.get("machine", {}), machine) else []


def train(preset: str, seed: int) -> dict:
    """Trains and returns the figures of the run. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory(prefix="speedrun-") as folder:
        workdir = Path(folder) / "run"
        commands.finish(
            commands.start_training(f"gpt2.py:{preset}", workdir, f"--config.seed={seed}")
        )
        summary = run_folder.read_object(workdir / run_folder.SUMMARY)
        config = run_folder.read_object(workdir / run_folder.CONFIG)
    return {
        "val_loss": summary["best/val/loss"],
        "seconds": summary["seconds"],
        "updates": config["train"]["num_steps"],
        "num_params": summary["num_params"],
    }


if __name__ == "__main__":
    errors.run_command(main)
