"""Random order of many numbers without a table of them: a format-preserving permutation.

A Feistel network permutes the numbers of 2 b bits, whatever its round function is (Luby and
Rackoff, 1988). One that is not among the `size` asked for is permuted again until it is: walking
along its cycle, it comes to one (Black and Rogaway, 2002). Any place in the order costs the same.
"""

import numpy as np

ROUNDS = 6


def permuted(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns what stands at some places, each below `size`, in the random order of an epoch.

    Each number from 0 to `size` - 1 stands at one place. Another seed or epoch has another order.
    """
    bits = np.uint64(max(1, -(-int(size - 1).bit_length() // 2)))  # Of each half.
    keys = np.random.SeedSequence([seed % 2**64, epoch]).generate_state(ROUNDS, np.uint64)
    numbers = _encrypted(places.astype(np.uint64), bits, keys)
    while (outside := numbers >= size).any():  # At most three of four are.
        numbers[outside] = _encrypted(numbers[outside], bits, keys)
    return numbers.astype(np.int64)


def _encrypted(numbers: np.ndarray, bits: np.uint64, keys: np.ndarray) -> np.ndarray:
    """Returns the numbers of 2 `bits` bits, permuted."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    left, right = numbers >> bits, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return left << bits | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """Returns numbers whose bits depend on all bits of `x`, as SplitMix64 ends (Steele, 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
