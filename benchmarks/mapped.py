"""Training from a mapped corpus against one in memory: `make bench-mapped`, for minutes.

Makes a corpus of a billion random tokens, and trains a small GPT-2 on it in turns from memory, from
the mapped files, and from a source that sleeps for half of an update before each: seconds of an
update, and the memory that the process has of its own.
"""

import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks import workloads
from input_pipeline.shards import Shards
from runtime import devices, errors, process
from training import plan
from training.setup import Chunk, Setup, set_up

TOKENS = flags.DEFINE_integer("tokens", 10**9, "Tokens of the corpus.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Times that each source is timed.")
UPDATES = 100  # Of each timing.
FILES = 16


def mapped(folder: Path, vocab_size: int) -> Shards:
    """Writes files of random tokens and returns them, mapped."""
    rng, arrays = np.random.default_rng(0), []
    for number in range(FILES):
        path = folder / f"train-{number:05}.bin"
        rng.integers(0, vocab_size, TOKENS.value // FILES, np.uint16).tofile(path)
        arrays.append(np.asarray(np.memmap(path, np.uint16, "r")))
    return Shards(arrays)


def own_memory() -> int:
    """Returns the bytes of memory that are this process's own, without pages of files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])


def timed(setup: Setup, sleep: float = 0.0) -> Callable[[], float]:
    """Returns a function that makes the next updates and returns the seconds of one."""
    state = setup.initial_state()
    metrics = before = setup.initial_metrics(state.params)
    steps = setup.compile_train_steps(plan.step_shapes(setup))
    first = 0

    def drawn() -> Iterator[Chunk]:
        batches = setup.train_batches(first, first + UPDATES)

        def slowly() -> Iterator[tuple[int, np.ndarray]]:
            for begin, rows in batches:
                time.sleep(sleep * len(rows))
                yield begin, rows

        size = setup.train.batch_size
        for begin, rows in devices.send_ahead(slowly(), size, setup.mesh):
            yield Chunk(begin, begin + len(rows), rows)

    def run() -> float:
        nonlocal state, metrics, before, first
        started = time.perf_counter()
        for chunk in drawn():  # As the loop of train.py.
            jax.block_until_ready(before)
            before = metrics
            state, metrics = steps(state, metrics, chunk, chunk.first, chunk.end)
        jax.block_until_ready(metrics)
        first += UPDATES
        return (time.perf_counter() - started) / UPDATES

    run()
    return run


def main() -> None:
    """Prints one line of JSON."""
    config = workloads.config_named("gpt2.py")
    config.train.steps_per_dispatch = 2
    config.train.num_steps = 10**6
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(config)
        corpus = mapped(Path(folder), setup.data.tokenizer.vocab_size)
        data = setup.data._replace(train=corpus)
        from_files = timed(setup._replace(data=data))
        of_files = own_memory()
        half = statistics.median(from_files() for _ in range(3)) / 2
        asleep = timed(setup._replace(data=data), half)
        loaded = Shards([np.array(array) for array in corpus.arrays])
        from_memory = timed(setup._replace(data=data._replace(train=loaded)))
        times = {"memory": [], "mapped": [], "asleep": []}
        for _ in range(ROUNDS.value):
            for name, run in zip(times, (from_memory, from_files, asleep), strict=True):
                times[name].append(run())
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[name], times["memory"], strict=True))
        for name in ("mapped", "asleep")
    }
    row = {
        "tokens": TOKENS.value,
        "update_ms": {name: round(1000 * statistics.median(one), 2) for name, one in times.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "own_mb_with_mapped": round(of_files / 1e6),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    process.configure_jax()
    errors.run_command(main)
