"""What all tests share: strict shapes, and one place for what they compile."""

import os
import tempfile

# Nothing outlives the test run, and what several tests compile alike is compiled once.
_CACHE = tempfile.TemporaryDirectory(prefix="transformers-tests-")


def pytest_configure():
    # For the commands that tests start, too; and before the first import of JAX.
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
    import jax

    import runtime

    runtime.configure_jax()
    # A sum of shapes [T] and [B, T] is an error, not a broadcast: the commonest shape bug.
    jax.config.update("jax_numpy_rank_promotion", "raise")
