"""How low a loss, how soon: `make speedrun`.

Trains each speedrun of experiments/gpt2.py with three seeds, one after another, as anyone would by
the same command. Writes benchmarks/speedrun.json: losses on the whole validation split and seconds
of training, compiling and evaluating apart. docs/speedrun.md is the table of records.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags

import run_folder
from benchmarks import results
from runtime import errors

ROOT = Path(__file__).parent.parent
FORMS = ["speedrun_5s", "speedrun_30s", "speedrun", "speedrun_180s", "baby_best"]

PRESETS = flags.DEFINE_list("presets", FORMS, "Which speedruns.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Which seeds.")
OUTPUT = flags.DEFINE_string("output", str(ROOT / "benchmarks/speedrun.json"), "Written.")


def main() -> None:
    unknown = [one for one in PRESETS.value if one not in FORMS]
    unknown += [one for one in SEEDS.value if not one.isdecimal()]
    if unknown:
        raise errors.UserError(
            f"{', '.join(unknown)}: expected presets of {', '.join(FORMS)}, and whole numbers as "
            "seeds"
        )
    output, machine = Path(OUTPUT.value), results.facts()
    if not output.parent.is_dir():
        raise errors.UserError(f"--output={output}: expected a file in a folder that exists")
    before = results.read(output) or {}
    rows = before["rows"] if results.is_same(before.get("machine", {}), machine) else []
    for preset in PRESETS.value:
        for seed in SEEDS.value:
            row = {"preset": preset, "seed": int(seed), **train(preset, seed)}
            print(row, flush=True)
            rows = [one for one in rows if (one["preset"], one["seed"]) != (preset, int(seed))]
            rows = sorted([*rows, row], key=lambda one: (FORMS.index(one["preset"]), one["seed"]))
            results.write(output, {"machine": machine, "rows": rows})


def train(preset: str, seed: str) -> dict:
    """The figures of one run, which has to succeed."""
    with tempfile.TemporaryDirectory(prefix="speedrun-") as folder:
        words = ["main.py", f"--config=experiments/gpt2.py:{preset}", f"--config.seed={seed}"]
        words += [f"--workdir={folder}/run", "--config.tracking.wandb_mode=disabled"]
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        summary = run_folder.read_object(Path(folder) / "run" / run_folder.SUMMARY)
        config = run_folder.read_object(Path(folder) / "run" / run_folder.CONFIG)
    return {
        "val_loss": summary["best/val/loss"],
        "seconds": summary["seconds"],
        "updates": config["train"]["num_steps"],
        "num_params": summary["num_params"],
    }


if __name__ == "__main__":
    errors.run_command(main)
