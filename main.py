"""One run: `python main.py --config=experiments/gpt2.py --config.train.num_steps=500`."""

from runtime import process

if __name__ == "__main__":
    process.set_up_malloc()  # First of all: what was imported would be imported again.

import sys
import time
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from config import check
from runtime import errors
from tracking import sweep

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment file, with a preset after a colon: experiments/gpt2.py:smoke. "
    "Its keys are flags: --config.optimizer.learning_rate=1e-3.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    "",
    "Run folder to write. Default: runs/<experiment>-<time>; in a W&B sweep runs/sweep-<id>/<run>.",
)
flags.mark_flag_as_required("config")


def main() -> None:
    experiment = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0])
    if not experiment.is_file():
        known = ", ".join(sorted(str(path) for path in Path("experiments").glob("*.py")))
        raise errors.UserError(f"--config={experiment} is not a file; here there are: {known}")
    swept = sweep.current()
    now = time.strftime("%Y%m%d-%H%M%S")
    default = swept.folder if swept else f"runs/{experiment.stem}-{now}"

    # Imported when the flags are known to be good: JAX takes a second to load.
    import train

    process.configure_jax()
    train.train_and_evaluate(CONFIG.value, Path(WORKDIR.value or default))


if __name__ == "__main__":
    # ml_collections wants the file before its keys; an agent of a sweep sends them in any order.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: not word.startswith("--config="))
    errors.run_command(main, explain=check.explain_flags)
