"""Compiled programs that outlive the process: a later start neither traces nor compiles them.

JAX's own cache spares the compiling alone: to look a program up there, JAX traces and lowers it
first, which is most of a start. Here a file is named after all that goes into a program (sources,
libraries, processor, JAX's settings, shapes, layouts) and names the file of what came of it, which
is named after the lowered program, so that another comment in the sources compiles nothing anew.
The folder can be deleted at any time. As with JAX's cache, who can write there can run code here.
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

from runtime import process
from runtime.files import replacing

# Files kept, those used last: a run has 13, together a megabyte if the model is small.
KEPT = 400
_loaded: dict[Any, jax.stages.Compiled] = {}
# Programs that JAX's cache has given to this process.
_hits: list[str] = []
jax.monitoring.register_event_listener(
    lambda event, **_: _hits.append(event) if event.endswith("/cache_hits") else None
)


def describe(model: nn.Module) -> str | None:
    """What tells a model from the others in our sources; None for one that is not from there."""
    return repr(model) if type(model).__module__.startswith("models.") else None


def for_model(function: Callable, static: tuple, args: tuple) -> Callable:
    """A jitted `function(*static, *args)` as a function of `args`; `static` starts with a model."""
    if describe(static[0]) is None:
        return functools.partial(function, *static)
    lower = functools.partial(function.lower, *static, *args)
    return compiled(function.__name__, repr(static), args, lower)


def compiled(
    name: str,
    made_of: str | None,
    args: tuple,
    lower: Callable[[], jax.stages.Lowered],
    out: Any = None,
) -> jax.stages.Compiled:
    """The program `name` for `args`: loaded if it is kept, else lowered and compiled.

    `made_of` tells it from all others that the sources have for such `args`; without it nothing is
    kept. `out` is structured as what the program returns, where that structure can't be pickled.
    """
    if made_of is None:
        return lower().compile()
    key = f"{name}-{_digest(made_of, _sources(), _shapes(args))}"
    # A second run in this process has an optimizer of its own, though it makes the same program.
    place = key, jax.tree.structure((args, out))
    if place not in _loaded:
        program = _load(_recall(_recall(key)), args, out)
        if program is None:
            lowered = lower()
            digest = _digest(lowered.as_text(), str(lowered.out_tree), _shapes(args))
            program = _load(_recall(digest), args, out) or _compile(lowered, digest, out)
            _keep(key, digest)
        _loaded[place] = program
    return _loaded[place]


def remembered(name: str, made_of: str | None, args: tuple, make: Callable[[], Any]) -> Any:
    """What `make` returns, a number for example, or has returned to an earlier process."""
    key = None if made_of is None else f"{name}-{_digest(made_of, _sources(), _shapes(args))}"
    if (value := _recall(key)) is None:
        value = make()
        _keep(key, value)
    return value


def _compile(lowered: jax.stages.Lowered, digest: str, out: Any) -> jax.stages.Compiled:
    before = len(_hits)
    program = lowered.compile()
    if len(_hits) == before:  # What was loaded can't be saved again: XLA loses its functions.
        try:
            payload, _, out_tree = serialize_executable.serialize(program)
        except Exception:
            return program  # Not every device's programs can be saved.
        # Its own, not those of its arguments: a program that reads none of them has one device.
        devices = [device.id for device in program.runtime_executable().local_devices()]
        _keep(digest, (payload, out_tree if out is None else None, devices))
    return program


def _load(kept: Any, args: tuple, out: Any) -> jax.stages.Compiled | None:
    try:
        payload, out_tree, ids = kept
        trees = jax.tree.structure((args, {})), out_tree or jax.tree.structure(out)
        here = {device.id: device for device in jax.devices()}
        return serialize_executable.deserialize_and_load(
            payload, *trees, execution_devices=[here[number] for number in ids]
        )
    except Exception:  # There is none, or it does not fit: what that raises has no common class.
        return None


def _folder() -> Path:
    return process.cache_dir() / "programs"


def _recall(name: str | None) -> Any:
    """What was kept under a name; None if there is nothing, or if it is damaged."""
    try:
        path = _folder() / name
        value = pickle.loads(zlib.decompress(path.read_bytes()))  # Which compares a checksum.
        os.utime(path)
        return value
    except Exception:
        return None


def _keep(name: str | None, value: Any) -> None:
    """A disk that is full costs the next start time, and no more."""
    try:
        content = zlib.compress(pickle.dumps(value), level=1)
        _folder().mkdir(parents=True, exist_ok=True)
        with replacing(_folder() / name) as file:
            file.write(content)
        used = sorted(_folder().iterdir(), key=lambda path: path.stat().st_mtime)
        for path in used[:-KEPT]:
            path.unlink(missing_ok=True)
    except Exception:
        pass


def _digest(*parts: Any) -> str:
    text = repr((parts, sorted(jax.config.values.items()), _surroundings()))
    # A function shows where it lies in memory; what it does is in the sources.
    return hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", text).encode()).hexdigest()


def _shapes(args: tuple) -> tuple:
    leaves, tree = jax.tree.flatten(args)
    return str(tree), [(jax.typeof(x), getattr(x, "sharding", None), _devices(x)) for x in leaves]


def _devices(args: Any) -> list[jax.Device]:
    """Where the first of the arrays lies; JAX's first device if there is none."""
    arrays = (leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, jax.Array))
    first = next(arrays, None)
    found = jax.devices()[:1] if first is None else first.sharding.device_set
    return sorted(found, key=lambda device: device.id)


def source_files(root: Path) -> list[Path]:
    """Returns every source file that can change a program, in folders of folders, too."""
    packages = {path.parent for path in root.glob("*/*.py")}
    own = [one for one in packages if one.name not in ("tests", "benchmarks")]
    return sorted([*root.glob("*.py"), *(path for one in own for path in one.rglob("*.py"))])


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for path in source_files(Path(__file__).parents[1]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _surroundings() -> tuple:
    devices = jax.devices()
    return (
        [library.__version__ for library in (jax, jaxlib, flax, optax)],
        [device.device_kind for device in devices],
        (devices[0].client.platform_version, jax.process_count()),
        process.processor(),
        sorted(
            item
            for item in os.environ.items()
            # But for how much of a GPU's memory a process takes, which changes no program.
            if item[0].startswith(("XLA_", "LIBTPU_")) and not item[0].startswith("XLA_PYTHON_")
        ),
    )
