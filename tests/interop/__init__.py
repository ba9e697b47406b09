"""Tests against PyTorch and transformers, which .venv-peers holds: `make interop`."""
