"""The process around JAX: how it gets its memory, and where compiled programs are kept."""

import functools
import os
import sys
import warnings
from pathlib import Path


def cache_dir() -> Path:
    """Where token ids and compiled programs outlive a run: $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "transformers-from-scratch"


# Read by glibc before `main`. Pages of 2 MiB, not 4 KiB; and memory that is freed stays with the
# process, in one heap, for the next execution to take: XLA's CPU backend allocates its temporary
# buffers afresh each time, and the kernel would have to clear every page of them again.
MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:"
    f"glibc.malloc.trim_threshold={1 << 62}"
)


def set_up_malloc() -> None:
    """Restarts this process, once, with MALLOC in force: see docs/performance.md for the gain.

    Whoever has set GLIBC_TUNABLES is left alone.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = MALLOC
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)


# Environment variable that answers `has_fast_bfloat16` in place of the processor: "true" or
# "false". A run then trains in the same precision on any machine; tests set it.
FAST_BFLOAT16 = "FAST_BFLOAT16"


def has_fast_bfloat16() -> bool:
    """Returns True if JAX's device multiplies bfloat16 in hardware; a CPU without it takes longer.

    Raises UserError if the variable FAST_BFLOAT16 is set to anything but "true" or "false".
    """
    import jax

    from runtime.errors import UserError

    if claimed := os.environ.get(FAST_BFLOAT16):
        if claimed not in ("true", "false"):
            raise UserError(f"{FAST_BFLOAT16}={claimed!r}: expected 'true' or 'false', or unset it")
        return claimed == "true"
    if jax.default_backend() != "cpu":
        return True
    # Apple's processors have it, but XLA does not use it there.
    return "avx512_bf16" in processor() or "amx_bf16" in processor()


@functools.cache
def processor() -> str:
    """The name and the instruction sets of the CPU, as far as the system tells them."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Not Linux.
        return platform.platform() + platform.processor()
    # Once, not for every core; an ARM calls its instruction sets features.
    return "\n".join(dict.fromkeys(x for x in lines if x.startswith(("model", "flags", "Feat"))))


def configure_jax() -> None:
    """Keeps compiled programs for the next process, and products exact unless a run says not to."""
    import jax

    # A cache that can't be written, on a full disk for example, costs the next start some time.
    warnings.filterwarnings("ignore", "Error (writing|reading) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # A recent GPU would round the factors to TF32, in evaluations too.
    jax.config.update("jax_default_matmul_precision", "float32")
