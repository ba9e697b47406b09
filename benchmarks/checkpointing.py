"""Cost of a checkpoint during training: `make bench-checkpoint` writes checkpointing.json.

Trains experiments/gpt2.py:baby at batch 8. Stretches of updates with a save at the start alternate
with stretches without one; each waits for its save, so the difference is the save's whole cost.
Reports it as a share of the time of 100 updates.
"""

import os
import statistics
import tempfile
from pathlib import Path

import jax

import run_folder
from benchmarks import ours, workloads
from benchmarks.rounds import seconds_of
from checkpoints.manager import Checkpoints
from runtime import devices, process
from training.setup import set_up

OUTPUT = Path(__file__).parent / "checkpointing.json"
UPDATES, EVERY, ROUNDS = 8, 100, 7


def main() -> None:
    """Measures, writes the file and prints the share."""
    process.configure_jax()
    config = workloads.config_named("gpt2.py:baby")
    config.train.batch_size = 8
    parts = set_up(config)
    step = ours.TrainStep(config, parts)
    batches_KBT = devices.split_batches(next(workloads.draw(parts.data, config)), parts.mesh)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Checkpoints(Path(folder)) as saved:
        parts.data.tokenizer.save(Path(folder) / run_folder.TOKENIZER)

        def train() -> None:
            for _ in range(UPDATES // len(batches_KBT)):
                loss = step(batches_KBT)
            jax.block_until_ready(loss)

        def save_and_train() -> None:
            saved.save(1, step.state, {"seconds": 0.0}, None)
            train()
            assert saved.wait()

        save_and_train()  # Compiles.
        times = []
        for number in range(ROUNDS):
            times.append([seconds_of(train), seconds_of(save_and_train)])
            plain, with_save = times[-1]
            print(f"round {number}: {plain:.2f} s, with a save {with_save:.2f} s", flush=True)
    plain, with_save = map(statistics.median, zip(*times, strict=True))
    extra = statistics.median(with_save - plain for plain, with_save in times)
    share = extra / (plain / UPDATES * EVERY)
    result = {
        "work": "gpt2:baby, batch 8",
        "num_cpus": os.cpu_count(),
        "precision": parts.precision,
        "updates": UPDATES,
        "seconds": times,
        "seconds_per_update": plain / UPDATES,
        "seconds_per_save": extra,
        "share_of_a_save_every_100_updates": share,
    }
    run_folder.write_json(OUTPUT, result)
    print(
        f"{plain:.2f} s and {with_save:.2f} s: "
        f"a save every {EVERY} updates costs {100 * share:.2f} %"
    )


if __name__ == "__main__":
    main()
