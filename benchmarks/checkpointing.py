"""What saving costs a training run: `make bench-checkpoint` writes benchmarks/checkpointing.json.

experiments/gpt2.py:baby at batch 8, as the harness trains it. Stretches of updates with a save at
their beginning and without one take turns; saving is over when its stretch is, so the difference is
all that a save costs. The share is that of a save every 100 updates.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import run_folder
from checkpoints.manager import Checkpoints
from experiments import gpt2
from input_pipeline import batches
from runtime import devices, process
from training.setup import set_up
from training.step import create_state, initial_metrics, train_steps

HERE = Path(__file__).parent
UPDATES, EVERY, ROUNDS = 8, 100, 7


def main() -> None:
    process.configure_jax()
    config = gpt2.get_config("baby")
    config.train.batch_size = 8
    built = set_up(config)
    state = create_state(built.model, built.tx, config.seed, built.mesh)
    metrics = initial_metrics(built.mesh)
    (_, batches_KBT), *_ = batches.train_batches(
        built.data.train,
        seed=0,
        batch_size=8,
        context_length=config.model.context_length,
        steps_per_dispatch=config.train.steps_per_dispatch,
        start_step=0,
        num_steps=1,
    )
    batches_KBT = devices.split_batches(batches_KBT, built.mesh)
    K = len(batches_KBT)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Checkpoints(Path(folder)) as saved:
        built.data.tokenizer.save(Path(folder) / run_folder.TOKENIZER)

        def stretch(save: bool) -> float:
            nonlocal state, metrics
            started = time.perf_counter()
            if save:
                saved.save(1, state, {"seconds": 0.0}, None)
            for _ in range(UPDATES // K):
                with jax.default_matmul_precision(built.precision):
                    state, metrics = train_steps(
                        state,
                        metrics,
                        batches_KBT,
                        *(0, K, np.uint32(0), 0),
                        schedule=built.schedule,
                    )
            jax.block_until_ready(metrics)
            assert not save or saved.wait()
            return time.perf_counter() - started

        stretch(save=True)  # Compiles.
        times = []
        for number in range(ROUNDS):
            times.append([stretch(save=False), stretch(save=True)])
            print(
                f"round {number}: {times[-1][0]:.2f} s, with a save {times[-1][1]:.2f} s",
                flush=True,
            )
    plain, with_save = map(statistics.median, zip(*times, strict=True))
    extra = statistics.median(one[1] - one[0] for one in times)
    result = {
        "work": "gpt2:baby, batch 8",
        "num_cpus": os.cpu_count(),
        "precision": built.precision,
        "updates": UPDATES,
        "seconds": times,
        "seconds_per_update": plain / UPDATES,
        "seconds_per_save": extra,
        "share_of_a_save_every_100_updates": extra / (plain / UPDATES * EVERY),
    }
    (HERE / "checkpointing.json").write_text(json.dumps(result, indent=2) + "\n")
    share = 100 * result["share_of_a_save_every_100_updates"]
    print(f"{plain:.2f} s and {with_save:.2f} s: a save every {EVERY} updates costs {share:.2f} %")


if __name__ == "__main__":
    main()
