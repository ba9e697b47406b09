"""Tests of a text larger than the memory limit, with and without line ends."""

import os
import subprocess
import sys

import pytest

from tests.command import ROOT

MIB = 1 << 20
# Loads a text, and prints the rise of peak memory in MiB, and the sizes of the corpus.
LOAD = """
import resource, sys
from experiments import default
from input_pipeline import corpus
data = default.get_config().data
data.update(name="text", path=sys.argv[1], tokenizer=sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loaded = corpus.load(data)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(peak >> 10, len(loaded.train), len(loaded.val), loaded.tokenizer.vocab_size)
"""


def load(path, tokenizer, cache):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, path, tokenizer],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


# `make soak` asks for a whole GiB.
SIZE = int(os.environ.get("LARGE_TEXT_MIB", "96"))


@pytest.mark.long
@pytest.mark.parametrize("end", [b"\n", b" "], ids=["lines", "one endless line"])
def test_memory_does_not_grow_with_the_text(tmp_path, end):
    piece = ("To be, or not to be — that is the question:" * 24000).encode()[: MIB - 2] + b"!" + end
    with open(tmp_path / "text.txt", "wb") as file:
        for _ in range(SIZE):
            file.write(piece)
    characters = len(piece.decode()) * SIZE
    peak, train, val, vocab_size = load(tmp_path / "text.txt", "char", tmp_path / "cache")
    assert (train, val) == (characters * 9 // 10, characters - characters * 9 // 10)
    assert vocab_size == len(set(piece.decode()))
    assert peak < 160
    again, *_ = load(tmp_path / "text.txt", "char", tmp_path / "cache")
    assert again < 60
