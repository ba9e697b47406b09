"""How low a loss, how soon: `make speedrun`.

Trains each speedrun of experiments/gpt2.py with three seeds, one after another, as anyone
would by the same command. Writes benchmarks/speedrun.json: losses on the whole validation split and
seconds of training (compiling and evaluating apart), and how long nanoGPT's recipe for a laptop
takes PyTorch on the same machine, by the last `make bench WORKS=laptop`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags

import errors
from benchmarks import results
from tracking import run_folder

HERE = Path(__file__).parent
OUTPUT = HERE / "speedrun.json"
FORMS = ["speedrun_5s"]
# nanoGPT's own number of updates for a laptop.
NANOGPT_UPDATES = 2000

PRESETS = flags.DEFINE_list("presets", FORMS, "Which speedruns.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Which seeds.")


def main() -> None:
    unknown = [one for one in PRESETS.value if one not in FORMS]
    unknown += [one for one in SEEDS.value if not one.isdecimal()]
    if unknown:
        raise errors.UserError(
            f"{', '.join(unknown)}: expected presets of {', '.join(FORMS)}, and whole numbers as "
            "seeds"
        )
    rows = json.loads(OUTPUT.read_text())["rows"] if OUTPUT.exists() else []
    nanogpt_seconds = seconds_of_nanogpt()
    for preset in PRESETS.value:
        for seed in SEEDS.value:
            row = {"preset": preset, "seed": int(seed), **train(preset, seed)}
            row["share_of_nanogpt"] = row["seconds"] / nanogpt_seconds
            print(row, flush=True)
            keys = ("preset", "seed")
            rows = [one for one in rows if any(one[key] != row[key] for key in keys)] + [row]
            content = {
                "machine": results.facts(),
                "nanogpt_seconds": nanogpt_seconds,
                "rows": sorted(rows, key=lambda one: (FORMS.index(one["preset"]), one["seed"])),
            }
            OUTPUT.write_text(json.dumps(content, indent=2) + "\n")


def seconds_of_nanogpt() -> float:
    """Of PyTorch at its best for nanoGPT's recipe: by the measured update."""
    rows = json.loads((HERE / "results.json").read_text())["rows"]
    return NANOGPT_UPDATES * next(row["peer"] for row in rows if row["work"] == "laptop") / 1000


def train(preset: str, seed: str) -> dict:
    """The figures of one run, which has to succeed."""
    with tempfile.TemporaryDirectory(prefix="speedrun-") as folder:
        words = ["main.py", f"--config=experiments/gpt2.py:{preset}", f"--config.seed={seed}"]
        words += [f"--workdir={folder}/run", "--config.tracking.wandb_mode=disabled"]
        subprocess.run(
            [sys.executable, *words], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL
        )
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
