"""A switch between two forms of the same numbers: the soonest done, and the plain definition.

`Dense`, attention and the loss have both. The plain one is what the fast one is tested and, in
benchmarks/losses.py, trained against; and FLOPs are counted on it, so that they are the model's
and not those of a form.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_on = ContextVar("plain_definitions", default=False)


@contextmanager
def definitions() -> Iterator[None]:
    """What is traced inside is computed by the plain definitions.

    jit does not know of it: trace a function inside that has not been traced outside.
    """
    token = _is_on.set(True)
    try:
        yield
    finally:
        _is_on.reset(token)


def is_wanted() -> bool:
    """Whether the caller stands inside `definitions`."""
    return _is_on.get()
