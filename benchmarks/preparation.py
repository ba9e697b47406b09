"""Speed and memory of prepare.py on a made corpus: `make bench-prepare`.

Writes documents from Tiny Shakespeare as JSON lines, of the size that is asked for, and prepares
them with GPT-2's tokens: megabytes a second of each core, and the memory of all its processes.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks.commands import ROOT
from input_pipeline import corpus
from runtime import errors

MEGABYTES = flags.DEFINE_integer("megabytes", 2000, "Size of the corpus.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes that encode.")


def write(path: Path, num_bytes: int) -> None:
    """Writes documents of 1 to 20 speeches, each with a number of its own."""
    from experiments import default

    data = corpus.load(default.get_config().data)
    speeches = data.tokenizer.decode(data.train).split("\n\n")
    draw = random.Random(0)
    written = number = 0
    with open(path, "w") as file:
        while written < num_bytes:
            first = draw.randrange(len(speeches))
            text = "\n\n".join([f"{number}", *speeches[first : first + draw.randrange(1, 20)]])
            written += file.write(json.dumps({"text": text}) + "\n")
            number += 1


def memory_of(pid: int) -> int:
    """Returns the bytes of memory of a process and its children, shared pages once."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", f"{pid}"], capture_output=True, text=True, check=False
    ).stdout.split()
    total = 0
    for one in [pid, *children]:
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def main() -> None:
    """Prints one line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "a.jsonl")
        write(source, MEGABYTES.value * 10**6)
        flags_of = [f"--input={source}", f"--output={folder}/out", f"--workers={WORKERS.value}"]
        started, most = time.monotonic(), 0
        with subprocess.Popen([sys.executable, "prepare.py", *flags_of], cwd=ROOT) as process:
            while process.poll() is None:
                most = max(most, memory_of(process.pid))
                time.sleep(0.2)
        seconds = time.monotonic() - started
        assert process.returncode == 0
        rate = source.stat().st_size / 1e6 / seconds / WORKERS.value
    row = {"megabytes": MEGABYTES.value, "workers": WORKERS.value, "seconds": round(seconds, 1)}
    print(json.dumps({**row, "mb_per_s_a_core": round(rate, 2), "peak_mb": round(most / 1e6)}))


if __name__ == "__main__":
    errors.run_command(main)
