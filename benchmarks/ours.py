"""A worker that trains our model as the harness does: `python -m benchmarks.ours FOLDER`."""

import sys
from pathlib import Path

import jax

import devices
import runtime
import train
import train_step
from benchmarks.rounds import Work, serve


def main(folder: str) -> None:
    """Serves passes over the work in `folder`: one dispatch of K updates each."""
    runtime.configure_jax()
    config, _, batches_KBT = Work.load(Path(folder))
    parts = train.build_parts(config)
    state = train_step.create_state(parts.model, parts.tx, config.seed, parts.mesh)
    update = devices.replicate(train_step.no_update(), parts.mesh)
    K = len(batches_KBT)
    batches_KBT = devices.split_batches(batches_KBT, parts.mesh)

    def run(passes: int) -> float:
        nonlocal state, update
        for _ in range(passes):
            state, update = train_step.train_steps(
                state, update, batches_KBT, 0, K, config.seed, config.train.max_skipped_updates
            )
        return float(update["train/loss"])  # Waits for the device.

    with jax.default_matmul_precision(parts.precision):
        serve(run, precision=parts.precision or "float32")


if __name__ == "__main__":
    main(*sys.argv[1:])
