"""Reads a text as token ids once: `python -m benchmarks.read_text ours|peer FILE`.

Ours goes through the cache, into an empty one. The peer encodes a character at a time in a list of
Python's integers, as nanoGPT's preparation of a text of characters does. Prints seconds and the
peak memory as JSON.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import rounds, workloads
from input_pipeline import corpus


def ours(path: Path) -> None:
    """Reads a text as a run does, with an empty cache."""
    data = workloads.config_named("bigram.py").data
    data.update(name="text", path=str(path))
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        corpus.load(data)


def peer(path: Path) -> None:
    """Reads a text whole, and writes the ids of both splits beside it."""
    text = path.read_text(encoding="utf-8")
    ids = {character: token for token, character in enumerate(sorted(set(text)))}
    at = len(text) * 9 // 10
    for name, part in (("train.bin", text[:at]), ("val.bin", text[at:])):
        np.array([ids[character] for character in part], dtype=np.uint16).tofile(path.parent / name)


def main(side: str, path: str) -> None:
    """Reads the text with one side, and prints what it took."""
    read = {"ours": ours, "peer": peer}[side]
    seconds = rounds.seconds_of(lambda: read(Path(path)))
    print(json.dumps({"seconds": seconds, "mib": rounds.peak_mib()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
