"""Process set-up: memory allocator, cache folder, bfloat16 support and JAX settings."""

import functools
import os
import re
import sys
import warnings
from pathlib import Path


def cache_dir() -> Path:
    """Returns the folder of cached token ids and programs, in $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "transformers-from-scratch"


# Read by glibc before `main`. Pages of 2 MiB, not 4 KiB; and freed memory stays in the process, in
# one heap: XLA's CPU backend allocates temporary buffers anew for each execution, and the kernel
# would have to clear every page of them again.
MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:"
    f"glibc.malloc.trim_threshold={1 << 62}"
)


def set_up_malloc() -> None:
    """Restarts this process, once, with MALLOC; docs/performance.md has the gain.

    Does nothing if GLIBC_TUNABLES is set.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = MALLOC
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)


# Environment variable, "true" or "false", that overrides `has_fast_bfloat16`. A run then trains in
# the same precision on any machine; tests set it.
FAST_BFLOAT16 = "FAST_BFLOAT16"


def has_fast_bfloat16() -> bool:
    """Returns True if JAX's device multiplies bfloat16 in hardware; other CPUs are slower with it.

    Raises UserError if the variable FAST_BFLOAT16 is neither "true" nor "false".
    """
    import jax

    from runtime.errors import UserError

    if claimed := os.environ.get(FAST_BFLOAT16):
        if claimed not in ("true", "false"):
            raise UserError(f"{FAST_BFLOAT16}={claimed!r}: expected 'true' or 'false', or unset it")
        return claimed == "true"
    if jax.default_backend() != "cpu":
        return True
    # XLA does not use the bfloat16 of Apple's processors.
    return "avx512_bf16" in processor() or "amx_bf16" in processor()


@functools.cache
def processor() -> str:
    """Returns the model name and the instruction sets of the CPU."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Not Linux.
        return platform.platform() + platform.processor()
    # Without the repetition for each core. On ARM the instruction sets are called Features.
    return "\n".join(dict.fromkeys(x for x in lines if x.startswith(("model", "flags", "Feat"))))


def processor_name() -> str:
    """Returns the CPU's model, or what else the system calls it."""
    import platform

    model = re.search(r"^model name\s*: (.+)$", processor(), re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def configure_jax() -> None:
    """Sets up JAX's persistent compilation cache and float32 matrix products."""
    import jax

    # With a full disk, programs are compiled again at the next start.
    warnings.filterwarnings("ignore", "Error (writing|reading) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # By default a recent GPU rounds the factors to TF32.
    jax.config.update("jax_default_matmul_precision", "float32")
