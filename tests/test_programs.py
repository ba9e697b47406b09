"""Compiled programs outlive the process, keyed by everything that determines them."""

import os
import pickle
import zlib

import jax
import numpy as np
import pytest
from flax import linen as nn

import run_folder
from runtime import programs
from tests.command import ROOT, run
from tests.stages import TINY

NUMBERS = (np.arange(3, dtype=np.float32),)


@pytest.fixture
def forget(monkeypatch, tmp_path):
    """Makes this process like a new one, with a cache of its own that stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(programs, "LOADED", {})
    # JAX's own cache takes what compiles slowly, on a busy machine anything.
    least = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[least]
    jax.config.update(least, 1e9)
    yield programs.LOADED.clear
    jax.config.update(least, before)


def files():
    return sorted(programs.folder().iterdir())


def double(cache_key="double", args=NUMBERS, lower=None, options=None):
    lower = lower or jax.jit(lambda x: {"twice": 2 * x}).lower
    program = programs.compiled("double", cache_key, args, lambda: lower(*args), options=options)
    return program(*args)["twice"]


def refuse(*_):
    raise AssertionError("it should have been kept")


def test_a_kept_program_is_neither_traced_nor_compiled(forget):
    np.testing.assert_array_equal(double(), [0, 2, 4])
    np.testing.assert_array_equal(double(lower=refuse), [0, 2, 4])
    forget()
    np.testing.assert_array_equal(double(lower=refuse), [0, 2, 4])


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-9], lambda b: b[:-3] + b"abc"])
def test_a_damaged_file_is_made_anew(damage, forget):
    double()
    good = {path: path.read_bytes() for path in files()}
    for path, content in good.items():
        path.write_bytes(damage(content))
    forget()
    np.testing.assert_array_equal(double(), [0, 2, 4])
    forget()
    np.testing.assert_array_equal(double(lower=refuse), [0, 2, 4])
    assert set(files()) == set(good)


def test_a_file_that_holds_something_else_is_made_anew(forget):
    double()
    for path in files():
        path.write_bytes(zlib.compress(pickle.dumps(("neither", "a program"))))
    forget()
    np.testing.assert_array_equal(double(), [0, 2, 4])


def test_a_cache_that_can_t_be_written_is_no_error(forget, monkeypatch, tmp_path):
    (tmp_path / "occupied").write_text("not a folder")
    monkeypatch.setattr(programs.process, "cache_dir", lambda: tmp_path / "occupied")
    np.testing.assert_array_equal(double(), [0, 2, 4])
    assert programs.cached("number", "it", NUMBERS, lambda: 5) == 5


def test_what_makes_another_program_is_never_taken_for_this_one(forget, monkeypatch):
    double()
    with pytest.raises(AssertionError):
        double(cache_key="another", lower=refuse)
    with pytest.raises(AssertionError):
        double(args=(np.arange(4, dtype=np.float32),), lower=refuse)
    with pytest.raises(AssertionError):
        double(args=(np.arange(3),), lower=refuse)
    with pytest.raises(AssertionError):
        double(args=(jax.device_put(NUMBERS[0]),), lower=refuse)
    with pytest.raises(AssertionError), jax.default_matmul_precision("bfloat16"):
        double(lower=refuse)
    for name in ("source_digest", "environment"):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(programs, name, lambda *root: "another")
            double(lower=refuse)


def test_a_program_compiled_with_other_options_is_kept_beside_it(forget):
    double()
    double(cache_key="plain", options={"xla_cpu_multi_thread_eigen": False})
    assert len(files()) == 4  # Two keys, and a program for each.


def test_other_sources_that_come_to_the_same_program_compile_nothing(forget, monkeypatch):
    double()
    forget()
    monkeypatch.setattr(programs, "source_digest", lambda root: "with one more comment")
    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    np.testing.assert_array_equal(double(), [0, 2, 4])


@pytest.mark.long
def test_every_source_file_of_a_program_is_known_however_deep():
    """Those that are imported to train, to evaluate and to generate."""
    loaded = "import sys, train, evaluate, generate; print(*(getattr(module, '__file__', None) or "
    loaded += "'' for module in list(sys.modules.values())), sep='\\n')"
    found = run("-c", loaded).stdout.splitlines()
    own = {path for path in found if path.startswith(f"{ROOT}/") and "/.venv" not in path}
    assert len(own) > 30 and str(ROOT / "models/layers/attention.py") in own
    assert own <= {str(path) for path in programs.source_files(ROOT)}


def test_an_edit_in_a_subfolder_is_another_program(forget, monkeypatch, tmp_path):
    (tmp_path / "models/layers").mkdir(parents=True)
    (tmp_path / "models/__init__.py").touch()
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    deep = tmp_path / "models/layers/dense.py"
    deep.write_text("y = x @ w")
    double()
    double(lower=refuse)
    deep.write_text("y = w @ x")
    programs.source_digest.cache_clear()  # As in a new process.
    with pytest.raises(AssertionError):
        double(lower=refuse)


def test_what_came_out_of_jax_s_cache_is_not_saved_again(forget):
    """Saved again, it loads and then fails when it is called."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        lower = [jax.jit(lambda x: {"twice": 2 * x + 0 * 4713}).lower for _ in range(2)]
        lower[0](*NUMBERS).compile()
        np.testing.assert_array_equal(double(lower=lower[1]), [0, 2, 4])
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    assert [path.name.split("-")[0] for path in files()] == ["double"]  # And not the program.


def test_the_oldest_are_removed(forget, monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 3)
    for number in range(5):
        programs.cached("number", str(number), NUMBERS, lambda number=number: number)
    assert len(files()) == 3


def test_models_from_elsewhere_are_told_apart_by_jax_alone(forget):
    class Mine(nn.Module):
        pass

    assert programs.describe(Mine()) is None
    assert programs.describe(TINY["gpt2"]) != programs.describe(TINY["gpt2"].copy(num_layers=5))
    called = programs.for_model(lambda model, x: x, (Mine(),), NUMBERS)
    assert called(*NUMBERS) is NUMBERS[0]


@pytest.mark.long
@pytest.mark.parametrize(
    ("num_devices", "batch_size", "num_used"),
    [(1, 4, 1), (3, 4, 2), (8, 24, 8)],
)
def test_a_second_start_and_the_other_commands_compile_nothing_of_the_run(
    num_devices, batch_size, num_used, tmp_path
):
    """On any number of devices, and on some of them alone."""
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    surroundings = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "JAX_LOG_COMPILES": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}",
    }
    big = ("draw_state", "train_steps", "nats_of_batches")
    big += ("_begin", "_read_prompt", "_write_cached", "_write_windowed")

    def compiles(script, *flags):
        result = run(script, *flags, **surroundings)
        assert result.returncode == 0, result.stderr
        return {name for name in big if f"Finished XLA compilation of jit({name})" in result.stderr}

    config = ["--config=experiments/self_attention.py:smoke", "--config.train.num_steps=2"]
    config += ["--config.tracking.wandb_mode=disabled", f"--config.train.batch_size={batch_size}"]
    config += [f"--config.eval.batch_size={batch_size}", f"--config.mesh.data={num_used}"]
    first, second = (tmp_path / name for name in ("first", "second"))
    assert compiles("main.py", *config, f"--workdir={first}") == set(big)
    assert run_folder.read_json(first / "environment.json")["num_devices"] == num_used
    # What a learner changes first: values that are arguments of the same programs.
    rates = ["learning_rate=0.01", "final_learning_rate=0.001", "schedule=linear", "warmup_steps=1"]
    other = [*config, *(f"--config.optimizer.{rate}" for rate in rates), "--config.seed=1"]
    assert compiles("main.py", *other, f"--workdir={second}") == set()
    resume = ["--config.checkpoint.resume=true", "--config.train.num_steps=3"]
    assert compiles("main.py", *other, *resume, f"--workdir={second}") == set()
    kept = set((tmp_path / "cache/transformers-from-scratch/programs").iterdir())
    assert compiles("evaluate.py", f"--workdir={first}") == set()
    assert compiles("generate.py", f"--workdir={first}", "--num_tokens=9") == set()
    if num_used == 1:
        assert set((tmp_path / "cache/transformers-from-scratch/programs").iterdir()) == kept
    text = [f"--workdir={first}", "--prompt=ROMEO:", "--num_tokens=70", "--num_samples=9"]
    assert compiles("generate.py", *text) == {
        "_begin",
        "_read_prompt",
        "_write_cached",
        "_write_windowed",
    }
    assert compiles("generate.py", *text) == set()


def test_a_program_does_not_depend_on_how_much_of_a_gpu_s_memory_is_taken(monkeypatch):
    def environment():
        programs.environment.cache_clear()
        return programs.environment()

    before = environment()
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.4")
    assert environment() == before
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert environment() != before
    monkeypatch.undo()
    assert environment() == before
