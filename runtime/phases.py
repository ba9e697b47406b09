"""Marks for the phases of a run, seen by audit hooks (PEP 578) alone: tests kill a run in each."""

import contextlib
import sys
from collections.abc import Iterator

ENTERED, LEFT = "run.phase.entered", "run.phase.left"


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Marks the block as the phase `name` of the run, by an audit event before and after it."""
    sys.audit(ENTERED, name)
    try:
        yield
    finally:
        sys.audit(LEFT, name)
