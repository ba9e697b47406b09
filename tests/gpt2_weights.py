"""Sizes of a tiny GPT-2 that tests compare with `transformers`, and the path of its fixture.

Without PyTorch, for tests/interop/ (with it) and tests/test_gpt2_oracle.py (without) share this.
"""

from pathlib import Path

FIXTURE = Path(__file__).parent / "fixtures/gpt2_tiny.npz"
# With K = D / H and F = 4 D the axes differ pairwise.
V, T, D, H, L = 11, 7, 12, 3, 2
