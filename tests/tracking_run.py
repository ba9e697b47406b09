"""A run without a model, in a separate process that tests may kill or starve.

`python tests/tracking_run.py WORKDIR NUM_STEPS [PAUSE]` logs NUM_STEPS steps, PAUSE seconds apart,
and prints `started` once W&B has started. The environment variable `FILE_BYTES` limits file sizes.
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import run_folder
from experiments.default import get_config
from runtime import process
from tracking import open_tracker, wandb_settings


def main() -> None:
    """Logs the steps."""
    # A script that runs the tests in the background (`pytest &`) ignores SIGINT, and its child
    # processes inherit that; training installs a handler of its own.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process.set_up_home()
    workdir, num_steps = Path(sys.argv[1]), int(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    config = get_config()
    config.train.num_steps = num_steps
    config = wandb_settings.with_environment(config, ())
    if "FILE_BYTES" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_BYTES"]),) * 2)
    workdir.mkdir(exist_ok=True)
    tracker = open_tracker(config, workdir, num_params=10)
    printed = False
    for step in range(num_steps):
        tracker.log(step, {"train/loss": 4.0 - step / num_steps, "tokens_seen": 32 * step})
        if step % 10 == 0:
            tracker.log_sample(step, "KING:", f" sample {step}")
        if not printed and (workdir / run_folder.WANDB).exists():
            printed = True
            print("started", flush=True)
        time.sleep(pause)
    tracker.finish({"train/loss": 3.0, "status": "done"})


if __name__ == "__main__":
    main()
