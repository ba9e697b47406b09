"""Switch between the optimized implementations and the reference definitions.

`Dense`, attention and the loss have both. Tests and benchmarks/losses.py compare the two. FLOPs
are counted on the reference, so that they are the model's and not an implementation's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_forced = ContextVar("is_forced", default=False)


@contextmanager
def forced() -> Iterator[None]:
    """Traces with the reference implementations inside the block.

    Not part of jit's cache key: a function that was traced outside is not traced again.
    """
    token = _is_forced.set(True)
    try:
        yield
    finally:
        _is_forced.reset(token)


def is_forced() -> bool:
    """Returns True inside a `forced` block."""
    return _is_forced.get()
