"""Process set-up: home and cache folder, memory allocator, bfloat16 support and JAX settings."""

import atexit
import contextlib
import functools
import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

NAME = "transformers-from-scratch"  # Of folders outside of the checkout.


def cache_dir() -> Path:
    """Returns the folder of cached token ids and programs, in $XDG_CACHE_HOME or ~/.cache.

    Without one that can be created, it is a temporary folder of this process.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return _created(Path(home) / NAME)


@functools.cache
def _created(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return temporary_folder()
    return folder


@functools.cache
def temporary_folder() -> Path:
    """Returns a folder that this process removes at its end; says so."""
    folder, owner = tempfile.mkdtemp(prefix=f"{NAME}-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # A fork of this process ends before it does.
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    print(
        "no home folder that can be written: compiled programs and tokens are kept for this "
        "command alone; set HOME or XDG_CACHE_HOME to keep them",
        file=sys.stderr,
    )
    return Path(folder)


def set_up_home() -> None:
    """Sets the variables of home folders that are no absolute paths, for all that is called here.

    Else some of it would create a folder `~` or `.wandb_cache`, and W&B would not start. A user
    whom the system does not know, as in a container, gets a temporary home.
    """
    if not os.path.isabs(os.environ.get("HOME", "")):
        os.environ.pop("HOME", None)
        home = os.path.expanduser("~")  # From the system's list of users.
        os.environ["HOME"] = home if os.path.isabs(home) else str(temporary_folder())
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        # No shell has expanded a ~ in a file of variables. Their standard ignores relative paths.
        folder = os.path.expanduser(os.environ.pop(name, ""))
        if os.path.isabs(folder):
            os.environ[name] = folder


# Read by glibc before `main`. Pages of 2 MiB, not 4 KiB; and freed memory stays in the process:
# XLA's CPU backend allocates temporary buffers anew for each execution, and the kernel would have
# to clear every page of them again. Four heaps: threads that compile or load programs would wait
# for a single one, and each heap keeps what it once had.
MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=4:"
    f"glibc.malloc.trim_threshold={1 << 62}"
)


def require_packages(package: str = "absl", folder: str = ".venv", target: str = "setup") -> None:
    """Exits with one line if this Python lacks a package: the environment is not activated.

    The first call of a command, before it imports any package. `python -m a.b` imports the package
    a first, so the call for its commands is there. `make TARGET` sets up `folder`.
    """
    if sys.version_info >= (3, 11) and importlib.util.find_spec(package):
        return
    root = Path(__file__).parents[1]
    activate = root / folder / "bin/activate"
    set_up = "" if activate.exists() else f"make -C {shlex.quote(str(root))} {target}; "
    print(
        f"error: {sys.executable}, Python {platform.python_version()}, lacks the packages of this "
        f"program: run {set_up}source {shlex.quote(os.path.relpath(activate))}",
        file=sys.stderr,
    )
    sys.exit(2)


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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Not Linux.
        return platform.platform() + platform.processor()
    # Without the repetition for each core. On ARM the instruction sets are called Features.
    return "\n".join(dict.fromkeys(x for x in lines if x.startswith(("model", "flags", "Feat"))))


def processor_name() -> str:
    """Returns the CPU's model, or what else the system calls it."""
    model = re.search(r"^model name\s*: (.+)$", processor(), re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Returns which of the sets that decide a product's speed the CPU has.

    A virtual machine may name its processor "AMD EPYC", whatever its generation.
    """
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return [name for name in known if name in processor().split()]


# JAX's options that change a run's numbers, or that its programs can't run with. Variables of the
# environment, such as JAX_ENABLE_X64, and a notebook may have set others.
NEEDED: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_softmax_custom_jvp": False,
    "jax_legacy_prng_key": "allow",
    "jax_debug_key_reuse": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_check_tracer_leaks": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_transfer_guard": "allow",
    "jax_no_execution": False,
    "jax_no_tracing": False,
}
# Variables that choose JAX's devices.
DEVICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES")


def quiet_compiler() -> None:
    """Hides XLA's warnings, which are for its developers; call it before JAX is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def configure_jax() -> None:
    """Sets up JAX: persistent compilation cache, float32 matrix products, the options in NEEDED.

    Raises UserError for an environment in which JAX can't start.
    """
    from runtime.errors import UserError

    set_up_home()
    if re.search(r"fast_math(=true|=1|\s|$)", flags := os.environ.get("XLA_FLAGS", "")):
        raise UserError(
            f"XLA_FLAGS={flags}: fast math hides numbers that are not finite, by which divergence "
            "is found; leave that flag out"
        )
    quiet_compiler()
    try:
        import jax
    except ValueError as error:
        raise UserError(
            f"{_variables(str(error))}: JAX can't start with it ({error}); correct or unset it"
        ) from None
    # With a full disk, programs are compiled again at the next start.
    warnings.filterwarnings("ignore", "Error (writing|reading) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # By default a recent GPU rounds the factors to TF32.
    jax.config.update("jax_default_matmul_precision", "float32")
    _set_options(jax.config)
    _make_halves()
    try:
        jax.devices()
    # JAX asserts that there is a device.
    except (RuntimeError, AssertionError, ValueError) as error:
        given = ", ".join(f"{name}={os.environ[name]}" for name in DEVICES if name in os.environ)
        reason = f" ({error})" if str(error) else ""
        raise UserError(
            f"{given or 'no JAX_PLATFORMS'}: JAX finds no such device{reason}; unset it, or set up "
            "JAX for a GPU with make setup-gpu"
        ) from None


def _make_halves() -> None:
    """Makes two devices of the CPU, if this process may use two cores and is alone.

    training/halves.py divides a training step between them, and inference/rows.py an evaluation;
    nothing else uses the second one.
    """
    import jax

    flags = os.environ.get("XLA_FLAGS", "")
    # By the environment, or by a notebook that has not used JAX yet.
    is_chosen = jax.config.values["jax_num_cpu_devices"] != -1
    is_chosen |= "host_platform_device_count" in flags
    if is_chosen or num_cores() < 2 or jax.distributed.is_initialized():
        return
    with contextlib.suppress(RuntimeError):  # JAX has started, as in a notebook.
        jax.config.update("jax_num_cpu_devices", 2)
        _made_halves.append(True)


_made_halves: list[bool] = []  # Of this process.


def has_halves() -> bool:
    """Returns True if configure_jax has made two devices of the CPU, the second one for halves."""
    return bool(_made_halves)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _set_options(config: Any) -> None:
    """Sets the options in NEEDED, and names those that had another value in one line."""
    changed, values = [], config.values
    for name, value in NEEDED.items():
        # Some releases of JAX lack some of them; the guard is None unless someone sets it.
        before = values.get(name)
        if before not in (value, None):
            changed.append(f"{name}={getattr(before, 'value', before)}")
            config.update(name, value)
    if changed:
        print(
            f"warning: set back to JAX's defaults, on which numbers depend: {', '.join(changed)}",
            file=sys.stderr,
        )


def _variables(message: str) -> str:
    """Returns JAX's environment variables whose values an error message quotes."""
    named = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    return ", ".join(f"{name}={named[name]}" for name in named if named[name] in message) or "JAX_*"
