"""The sizes of a tiny GPT-2 that tests compare with `transformers`, and where its answers are kept.

No PyTorch here, so that the tests with it (tests/interop/) and those with the fixture that it
wrote (tests/test_gpt2_oracle.py) share this.
"""

from pathlib import Path

FIXTURE = Path(__file__).parent / "fixtures/gpt2_tiny.npz"
# With K = D / H and F = 4 D the axes differ pairwise.
V, T, D, H, L = 11, 7, 12, 3, 2
