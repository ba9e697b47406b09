"""Settings of all tests: strict shapes, and one cache for what they compile."""

import importlib.util
import os
import signal
import tempfile

import pytest

FAST_TO_COMPILE = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config):
    # For the commands that tests start, too; and before the first import of JAX.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # Nothing outlives the test run, and what several tests compile alike is compiled once.
        config.cache_folder = tempfile.TemporaryDirectory(prefix="transformers-tests-")
        os.environ["XDG_CACHE_HOME"] = config.cache_folder.name
        # Most of the time goes into compiling programs that run for milliseconds. The ladder of the
        # README, the soak and `make interop` have the compiler's full optimization.
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
            # And then a sixth less with each program in one piece, by the older code generator.
            os.environ.setdefault("XLA_FLAGS", FAST_TO_COMPILE)
        # A shell starts what runs in the background with SIGINT ignored, and so would the commands
        # that tests send one to.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # One precision on every processor, unless a test or whoever runs them asks for the other:
        # `FAST_BFLOAT16=true make test`.
        os.environ.setdefault("FAST_BFLOAT16", "false")
        # W&B's process is nice, and may hardly run beside the other worker.
        os.environ["BUSY_MACHINE"] = "true"
        # The hundreds of commands that tests start import what the first of them compiled.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    import jax

    from runtime import process

    process.configure_jax()
    # A sum of shapes [T] and [B, T] is an error, not a broadcast: the commonest shape bug.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if importlib.util.find_spec("hypothesis"):  # Not in the environment with PyTorch.
        from hypothesis import HealthCheck, settings

        # An example may take any time, and each run of the tests has the same ones.
        # `--hypothesis-profile=default` draws others.
        slow = [HealthCheck.too_slow]
        settings.register_profile(
            "same", deadline=None, derandomize=True, suppress_health_check=slow
        )
        settings.load_profile("same")


# Files that take minutes; with two workers, whichever starts last is waited for.
LONGEST = (
    "test_readme",
    "test_gpu_compile",
    "test_wandb_sweeps",
    "test_sweep_run",
    "test_train",
    "test_comparison",
    "test_programs",
    "test_tracking",
    "test_report",
    "test_kill",
)


@pytest.hookimpl(tryfirst=True)  # Before -m chooses.
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
    names = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: names.get(item.path.stem, len(names)))
