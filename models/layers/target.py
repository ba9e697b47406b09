"""Device that programs are traced for: JAX's default, or one to compile for that is not present.

Layers whose implementation differs between CPU and GPU choose by it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax


class Target(NamedTuple):
    """Kind of device."""

    platform: str  # As JAX names it: "cpu", "gpu", "tpu".
    compute_capability: float = 0.0  # NVIDIA GPUs alone; 9.0 for an H100.


_chosen: ContextVar[Target | None] = ContextVar("target", default=None)


def current() -> Target:
    """Returns the target of the `compiling_for` block, or JAX's default device outside of one."""
    if chosen := _chosen.get():
        return chosen
    capability = getattr(jax.devices()[0], "compute_capability", 0)
    return Target(jax.default_backend(), float(capability))


@contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """Traces for `target` inside the block.

    Not part of jit's cache key: a function that was traced outside is not traced again.
    """
    token = _chosen.set(target)
    try:
        yield
    finally:
        _chosen.reset(token)


def is_bfloat16() -> bool:
    """Returns True under `jax.default_matmul_precision("bfloat16")`."""
    return jax.default_matmul_precision.value == "bfloat16"
