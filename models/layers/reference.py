"""Switch between the optimized implementations and the reference definitions.

`Dense`, attention and the loss have both. The optimized form is tested and, in
benchmarks/losses.py, trained against the reference; FLOPs are counted on the reference, so that
they are the model's and not those of an implementation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_forced = ContextVar("reference_definitions", default=False)


@contextmanager
def forced() -> Iterator[None]:
    """Traces what is inside by the reference definitions.

    jit does not know of it: trace a function inside that has not been traced outside.
    """
    token = _is_forced.set(True)
    try:
        yield
    finally:
        _is_forced.reset(token)


def is_forced() -> bool:
    """Returns True inside `forced`."""
    return _is_forced.get()
