"""The device that programs are traced for: JAX's own, or one to compile for that is not here.

Where a GPU takes another form of the same numbers than a CPU does, the choice is made here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax


class Target(NamedTuple):
    """A kind of device."""

    platform: str  # As JAX names it: "cpu", "gpu", "tpu".
    compute_capability: float = 0.0  # Of an NVIDIA GPU, 9.0 for an H100; 0 of anything else.


_chosen: ContextVar[Target | None] = ContextVar("target", default=None)


def current() -> Target:
    """Returns the target of `compiling_for`, or else JAX's default device."""
    if chosen := _chosen.get():
        return chosen
    capability = getattr(jax.devices()[0], "compute_capability", 0)
    return Target(jax.default_backend(), float(capability))


@contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """Traces what is inside for `target`.

    jit does not know of it: trace a function inside that has not been traced outside.
    """
    token = _chosen.set(target)
    try:
        yield
    finally:
        _chosen.reset(token)
