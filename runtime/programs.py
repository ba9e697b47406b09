"""Compiled programs that outlive the process: a later start neither traces nor compiles them.

JAX's own cache saves the compilation alone: JAX traces and lowers a program, which is most of a
start, before it looks it up there. Here an entry is keyed by everything that determines a program
(sources, libraries, processor, JAX's settings, shapes, layouts). It names a second file, keyed by
the lowered program, which holds the executable: a new comment in the sources compiles nothing.
Deleting the folder is safe at any time. As with JAX's cache, who can write there can run code here.
"""

import functools
import hashlib
import os
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import optax
from flax import linen as nn
from jax.experimental import serialize_executable

from runtime import devices, process
from runtime.files import atomic_write

# Files kept, the most recently used ones: a run has 13, a megabyte in all if the model is small.
KEPT = 400
ROOT = Path(__file__).parents[1]
Options = dict[str, Any] | None  # Of XLA's compiler.
# The programs of this process.
LOADED: dict[Any, jax.stages.Compiled] = {}
# Hits of JAX's own cache in this process.
_hits: list[str] = []
jax.monitoring.register_event_listener(
    lambda event, **_: _hits.append(event) if event.endswith("/cache_hits") else None
)


def describe(model: nn.Module) -> str | None:
    """Returns a model's part of the cache key; None for a model from outside our sources."""
    return repr(model) if type(model).__module__.startswith("models.") else None


def for_model(function: Any, static: tuple, args: tuple) -> Callable:
    """Returns jitted `function(*static, *args)` as a function of `args`; static[0] is a model."""
    if describe(static[0]) is None:
        return functools.partial(function, *static)
    lower = functools.partial(function.lower, *static, *args)
    return compiled(function.__name__, repr(static), args, lower)


def compiled(
    name: str,
    cache_key: str | None,
    args: tuple,
    lower: Callable[[], jax.stages.Lowered],
    out: Any = None,
    options: Options = None,
) -> jax.stages.Compiled:
    """Returns the program `name` for `args`: loaded if it is kept, else lowered and compiled.

    `cache_key` distinguishes it from other programs of these sources for such `args`; with None,
    nothing is kept. `out` has the structure of the result, where that can't be pickled.
    XLA compiles with `options`, which `cache_key` names, too.
    """
    if cache_key is None:
        return lower().compile(options)
    key = _key(name, cache_key, args)
    # A second run in this process has another optimizer object, and the same program.
    place = key, jax.tree.structure((args, out))
    if place not in LOADED:
        # A kept program does not know which of its devices are those of other processes.
        alone = jax.process_count() == 1
        LOADED[place] = (
            _recalled(key, args, lower, out, options) if alone else lower().compile(options)
        )
    return LOADED[place]


def _recalled(
    key: str, args: tuple, lower: Callable[[], jax.stages.Lowered], out: Any, options: Options
) -> jax.stages.Compiled:
    """Returns the kept program, or the one that is now compiled and kept."""
    if program := _load(_recall(_recall(key)), args, out):
        return program
    lowered = lower()
    digest = _digest(lowered.as_text(), str(lowered.out_tree), _shapes(args), options)
    program = _load(_recall(digest), args, out) or _compile(lowered, digest, out, options)
    _keep(key, digest)
    return program


def is_kept(name: str, cache_key: str | None, args: tuple) -> bool:
    """Returns True if `compiled` will probably find the program, and not compile it."""
    if cache_key is None or jax.process_count() > 1:
        return False
    return _recall(_key(name, cache_key, args)) is not None


def cached(name: str, cache_key: str | None, args: tuple, make: Callable[[], Any]) -> Any:
    """Returns the value of `make()`, a number for example, kept for later processes."""
    if cache_key is None:
        return make()
    key = _key(name, cache_key, args)
    if (value := _recall(key)) is None:
        value = make()
        _keep(key, value)
    return value


def _key(name: str, cache_key: str, args: tuple) -> str:
    return f"{name}-{_digest(cache_key, source_digest(ROOT), _shapes(args))}"


def _compile(
    lowered: jax.stages.Lowered, digest: str, out: Any, options: Options
) -> jax.stages.Compiled:
    before = len(_hits)
    program = lowered.compile(options)
    if len(_hits) == before:  # XLA can't save a loaded program again: it loses its functions.
        try:
            payload, _, out_tree = serialize_executable.serialize(program)
        except Exception:
            return program  # Not every device's programs can be saved.
        # Not the devices of its arguments: a program that reads none of them has one device.
        executable = program.runtime_executable()
        assert executable is not None, "a program that was compiled here has an executable"
        ids = [device.id for device in executable.local_devices()]
        _keep(digest, (payload, out_tree if out is None else None, ids))
    return program


def _load(kept: Any, args: tuple, out: Any) -> jax.stages.Compiled | None:
    try:
        payload, out_tree, ids = kept
        trees = jax.tree.structure((args, {})), out_tree or jax.tree.structure(out)
        here = {device.id: device for device in jax.devices()}
        return serialize_executable.deserialize_and_load(
            payload, *trees, execution_devices=[here[number] for number in ids]
        )
    except Exception:  # Nothing kept, or it does not fit: these errors have no common class.
        return None


def folder() -> Path:
    """Returns the folder of the kept programs."""
    return process.cache_dir() / "programs"


def _recall(name: str | None) -> Any:
    """Returns what was kept under a name; None if there is nothing, or if it is damaged."""
    if name is None:
        return None
    try:
        path = folder() / name
        value = pickle.loads(zlib.decompress(path.read_bytes()))  # zlib compares a checksum.
        os.utime(path)
        return value
    except Exception:
        return None


def _keep(name: str, value: Any) -> None:
    """Writes a file, if the disk takes it; otherwise the next start takes longer, no more."""
    try:
        content = zlib.compress(pickle.dumps(value), level=1)
        folder().mkdir(parents=True, exist_ok=True)
        with atomic_write(folder() / name) as file:
            file.write(content)
        used = sorted(folder().iterdir(), key=lambda path: path.stat().st_mtime)
        for path in used[:-KEPT]:
            path.unlink(missing_ok=True)
    except Exception:
        pass


def _digest(*parts: Any) -> str:
    options = jax.config.values.items()
    # A second device for halves changes no program but those that name both.
    options = sorted(item for item in options if item[0] != "jax_num_cpu_devices")
    text = repr((parts, options, environment()))
    # The repr of a function holds its address; its code is in the sources.
    return hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", text).encode()).hexdigest()


def _shapes(args: tuple) -> tuple:
    leaves, tree = jax.tree.flatten(args)
    return str(tree), [(jax.typeof(x), getattr(x, "sharding", None), _devices(x)) for x in leaves]


def _devices(args: Any) -> list[jax.Device]:
    """Returns the devices of the first array, or layout; JAX's first device if there is none."""
    layouts = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(args))
    first = next(filter(None, layouts), None)
    found = jax.devices()[:1] if first is None else first.device_set
    return sorted(found, key=lambda device: device.id)


def source_files(root: Path) -> list[Path]:
    """Returns every source file that can change a program, in subfolders, too."""
    packages = {path.parent for path in root.glob("*/*.py")}
    own = [one for one in packages if one.name not in ("tests", "benchmarks")]
    return sorted([*root.glob("*.py"), *(path for one in own for path in one.rglob("*.py"))])


@functools.cache
def source_digest(root: Path) -> str:
    """Returns the sha256 of all source files below `root`."""
    digest = hashlib.sha256()
    for path in source_files(root):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def environment() -> tuple:
    """Returns libraries, devices and XLA's variables, which determine a program, too."""
    found = devices.found()
    return (
        [library.__version__ for library in (jax, jaxlib, flax, optax)],
        [device.device_kind for device in found],
        (found[0].client.platform_version, jax.process_count()),
        process.processor(),
        sorted(
            item
            for item in os.environ.items()
            # XLA_PYTHON_* set how much of a GPU's memory a process takes, which changes no program.
            if item[0].startswith(("XLA_", "LIBTPU_")) and not item[0].startswith("XLA_PYTHON_")
        ),
    )
