"""The rules of the house: what imports what, which keys are read, how long a function is."""

import ast
import importlib
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import models
from experiments import default, gpt2
from run_folder import flatten

ROOT = Path(__file__).parent.parent
# Packages and commands, bottom to top: a file imports from what stands before its own.
LAYERS = [
    "runtime",
    "run_folder",
    "experiments",
    "config",
    "tracking",
    "input_pipeline",
    "models",
    "checkpoints",
    "inference",
    "training",
    "inspection",
    "reporting",
    "playground_page",
    "sweep_engine",
    *("train", "harness", "generate", "evaluate", "export", "report", "look_inside", "playground"),
    *("main", "ladder", "sweeps", "prepare"),
    "exercises",
    "course",
]
QUESTIONS = "What|How|Whether|Where|Which|That"
EXPERIMENTS = default.LADDER


def sources(*folders):
    paths = itertools.chain.from_iterable((ROOT / folder).rglob("*.py") for folder in folders)
    return sorted(path for path in [*ROOT.glob("*.py"), *paths] if "__pycache__" not in path.parts)


PACKAGES = [name for name in LAYERS if (ROOT / name).is_dir()]
PRODUCT = sources(*PACKAGES)
ALL = [*PRODUCT, *sources("tests", "benchmarks")]


def name(path):
    return path.relative_to(ROOT).with_suffix("").as_posix()


def imports(path):
    """Dotted names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            # `from runtime import errors` imports the module runtime.errors.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module):
    """The layer that a dotted or slashed name belongs to; None for a library's."""
    first = re.split("[./]", module)[0]
    return first if first in LAYERS else None


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_imports_point_one_way(path):
    own = layer(name(path))
    assert own is not None, f"{name(path)} has no place in LAYERS"
    for module in imports(path):
        other = layer(module)
        if other not in (None, own):
            assert LAYERS.index(other) < LAYERS.index(own), f"{name(path)} imports {module}"


def test_the_root_has_commands_alone():
    commands = {path.stem for path in ROOT.glob("*.py")}
    assert commands == {name for name in LAYERS if (ROOT / f"{name}.py").exists()}
    for path in ROOT.glob("*.py"):
        assert (
            path.stem in ("train", "harness") or 'if __name__ == "__main__":' in path.read_text()
        ), path.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("wandb", ("tracking/", "sweep_engine/", "tests/")),
        ("tensorboardX", ("tracking/",)),
        ("tensorboard", ("tests/",)),
        ("torch", ("tests/interop/", "benchmarks/")),
        ("transformers", ("tests/interop/", "benchmarks/")),
        ("tensorflow_datasets", ("input_pipeline/", "tests/")),
        ("tensorflow", ()),
        ("sphinx", ("course/", "tests/")),
        ("docutils", ("course/",)),
        ("math_core", ("course/",)),
    ],
)
def test_libraries_stay_where_they_belong(library, homes):
    for path in ALL:
        if not name(path).startswith(homes):
            roots = {module.split(".")[0] for module in imports(path)}
            assert library not in roots, f"{name(path)} imports {library}"


def test_stages_are_named_in_models_and_experiments_alone():
    for path in PRODUCT:
        if not name(path).startswith(("models/", "experiments/")):
            for stage in set(EXPERIMENTS) - {"bigram", "gpt2"}:  # "gpt2" is a tokenizer, too.
                assert f'"{stage}"' not in path.read_text(), f"{name(path)} names {stage}"


def test_each_stage_imports_from_the_ones_before_it():
    for place, stage in enumerate(EXPERIMENTS):
        modules = set(imports(ROOT / f"models/{stage}.py"))
        later = {f"models.{other}" for other in EXPERIMENTS[place:]}
        assert not modules & later
        if place > 1:
            assert modules & {f"models.{other}" for other in EXPERIMENTS[:place]}


def test_every_config_key_is_read():
    """Outside the experiments, by its name as an attribute or in quotes."""
    code = "\n".join(path.read_text() for path in PRODUCT if "experiments/" not in name(path))
    for key in flatten(default.get_config().to_dict()):
        last = key.rpartition(".")[-1]
        assert re.search(rf"""\.{last}\b|["']{last}["']|\b{last}: (int|float)""", code), key


def test_no_default_hides_far_from_the_config():
    """The report alone reads configs that it does not know: those of old runs, or of forks."""
    for path in PRODUCT:
        if not name(path).startswith("reporting/"):
            assert not re.search(r"config(\.\w+)*\.get\(", path.read_text()), name(path)


@pytest.mark.parametrize("path", ALL, ids=name)
def test_functions_fit_on_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text())):
        # An experiment's keys are a list, not a function to follow.
        if isinstance(node, ast.FunctionDef) and node.name != "get_config":
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"


def docstrings(tree):
    """Yields (node, docstring) of a module and of its classes and functions, however deep."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            yield node, ast.get_docstring(node)


@pytest.mark.parametrize("path", ALL, ids=name)
def test_no_docstring_begins_as_a_question(path):
    """It begins with a verb, or with the noun that a class or a module is."""
    for node, docstring in docstrings(ast.parse(path.read_text())):
        question = re.match(rf"({QUESTIONS})\b", docstring or "")
        assert not question, f"{getattr(node, 'name', '')}: {docstring:.40}"


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_modules_and_public_functions_say_what_they_do(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body
    for scope in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        for node in scope.body:
            is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            # The module's docstring says what a command does, and Flax calls `setup`.
            if is_public and node.name not in ("main", "setup"):
                assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", sources("tests", "benchmarks"), ids=name)
def test_private_names_are_left_alone(path):
    """Those of our own modules and of libraries; compiling for a GPU without one needs JAX's."""
    # Of named tuples, os and notebooks: documented.
    allowed = {"_replace", "_asdict", "_fields", "_exit", "_repr_svg_"}
    if name(path) != "training/topology":
        assert not any("._" in module for module in imports(path)), "a private module"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr not in allowed:
                of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                assert of_self or not re.match("_[^_]", node.attr), f"{node.attr}: {node.lineno}"


def test_no_six_lines_are_equal_in_two_stages():
    """The contract's signature, which all five must have, does not count."""
    seen = {}
    for path in sorted((ROOT / "models").glob("*.py")):
        code = re.sub(r"def __call__\(.*?\) -> .*?:\n", "", path.read_text(), flags=re.DOTALL)
        lines = [line.strip() for line in code.splitlines()]
        lines = [
            line for line in lines if len(line) > 3 and not line.startswith(("import", "from"))
        ]
        for first in range(len(lines) - 5):
            run = tuple(lines[first : first + 6])
            assert seen.setdefault(run, path) == path, f"{path.name}, {seen[run].name}: {run[0]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [
        *itertools.product(EXPERIMENTS, ["", "smoke"]),
        *itertools.product(["gpt2"], [preset for preset in gpt2.PRESETS if preset != "smoke"]),
    ],
    ids=":".join,
)
def test_every_preset_builds(experiment):
    stage, preset = experiment
    config = importlib.import_module(f"experiments.{stage}").get_config(preset)
    assert config.is_locked
    assert config.tracking.stage == EXPERIMENTS.index(stage) + 1
    assert config.data.name == ("shards" if preset == "openwebtext" else "tiny_shakespeare")
    vocab_size = {"char": 65, "gpt2": 50257}[config.data.tokenizer]
    model = models.build(config.model, vocab_size)
    tokens_BT = jax.ShapeDtypeStruct((2, config.model.context_length), jnp.int32)
    logits = jax.eval_shape(lambda t: model.init_with_output(jax.random.key(0), t)[0], tokens_BT)
    assert logits.shape == (*tokens_BT.shape, max(vocab_size, config.model.pad_vocab_to))
    assert logits.dtype == jnp.float32
