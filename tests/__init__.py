"""Tests, and commands that run them for long: `python -m tests.faults.harness`."""

from runtime import process

process.require_packages()
