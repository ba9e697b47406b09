"""Checkpoints: atomic writes, detection of damage, fallback to the one before, retention."""

import itertools
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from hypothesis import given, settings
from hypothesis import strategies as st

import run_folder
from checkpoints import file_format
from checkpoints.manager import Checkpoints
from runtime.errors import UserError
from tests.command import ROOT
from tests.forked import run

PROGRESS = {"seconds": 1.5, "best/val/loss": 2.0, "best/step": 5, "skipped": 0}


def state_of(value, shape=(3, 4)):
    params = {"layer": {"kernel": jnp.full(shape, value), "bias": jnp.arange(4.0)}}
    tx = optax.adamw(1e-3)
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    return jax.tree.map(jnp.asarray, state)  # The counter, too.


@pytest.fixture
def workdir(tmp_path):
    run_folder.write_json(tmp_path / "tokenizer.json", {"name": "char", "vocabulary": "ab"})
    return tmp_path


def save(workdir, losses, keep=9, notes=None):
    """Saves a checkpoint for each step with its validation loss; its parameters are the step."""
    note = None if notes is None else notes.append
    with Checkpoints(workdir, keep, note) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, state_of(float(step)), {**PROGRESS, "best/step": step}, loss)
            checkpoints.wait()


def restore(workdir, notes=None):
    with Checkpoints(workdir, note=None if notes is None else notes.append) as checkpoints:
        return checkpoints.restore(state_of(0.0))


def test_what_was_saved_comes_back(workdir):
    save(workdir, {5: 2.0})
    restored = restore(workdir)
    assert restored.step == 5 and restored.progress == {**PROGRESS, "best/step": 5}
    assert restored.state.step == 5
    expected = state_of(5.0)
    jax.tree.map(np.testing.assert_array_equal, restored.state.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, restored.state.opt_state, expected.opt_state)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["5"]


def test_a_saved_state_is_a_copy(workdir):
    """The next update overwrites the arrays of the state that is being saved."""
    double = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 2, state), donate_argnums=0)
    with Checkpoints(workdir) as checkpoints:
        state = state_of(1.0, (400, 4))
        for step in range(1, 20):
            checkpoints.save(step, state, PROGRESS, None)
            state = double(state)
            jax.block_until_ready(state)
    params = file_format.read(workdir / "checkpoints/19", "params", state.params)
    np.testing.assert_array_equal(params["layer"]["kernel"], 2.0**18)


@pytest.mark.parametrize(
    ("losses", "keep", "kept"),
    [
        ({1: 3.0, 2: 2.0, 3: 4.0, 4: 5.0}, 1, [2, 4]),
        ({1: 3.0, 2: 2.0, 3: 4.0, 4: 5.0}, 2, [2, 3, 4]),
        ({1: None, 2: None, 3: None}, 1, [3]),
        ({1: 2.0, 2: None, 3: 2.0}, 1, [1, 3]),  # Equal: the first one was best.
        ({9: 2.0, 10: 3.0, 100: 4.0}, 2, [9, 10, 100]),  # Numbers, not words.
    ],
)
def test_the_newest_and_the_best_are_kept(workdir, losses, keep, kept):
    save(workdir, losses, keep)
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.steps() == kept
        assert checkpoints.latest_step() == checkpoints.find("latest")[0] == kept[-1]


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["params.safetensors", "opt_state.safetensors", "checkpoint.json"]), st.data()
)
def test_any_flipped_bit_and_any_truncation_is_found(tmp_path_factory, name, data):
    workdir = tmp_path_factory.mktemp("flip")
    run_folder.write_json(workdir / "tokenizer.json", {"name": "char", "vocabulary": "ab"})
    save(workdir, {10: 2.0, 20: 1.0})
    file = workdir / "checkpoints/20" / name
    before = file_format.read_metadata(workdir / "checkpoints/20")
    size = file.stat().st_size
    if data.draw(st.booleans()):
        flip(file, data.draw(st.integers(0, 8 * size - 1)))
    else:
        os.truncate(file, data.draw(st.integers(0, size - 1)))
    notes = []
    restored = restore(workdir, notes)
    if restored.step == 20:
        # Only white space in the JSON file can change without changing its content.
        assert name == "checkpoint.json"
        assert file_format.read_metadata(workdir / "checkpoints/20") == before
        return
    assert restored.step == 10
    np.testing.assert_array_equal(restored.state.params["layer"]["kernel"], 10.0)
    (note,) = notes
    assert "checkpoint 20 is damaged" in note and "resuming from step 10" in note
    # Set aside, so that step 20 can be saved again.
    assert (workdir / "checkpoints/20.damaged").is_dir()
    save(workdir, {20: 1.0})
    assert restore(workdir).step == 20


@pytest.mark.parametrize(
    "missing", ["params.safetensors", "opt_state.safetensors", "checkpoint.json"]
)
def test_a_missing_file_is_damage(workdir, missing):
    save(workdir, {10: 2.0, 20: 1.0})
    (workdir / "checkpoints/20" / missing).unlink()
    notes = []
    assert restore(workdir, notes).step == 10
    assert f"checkpoint 20 is damaged ({missing} is missing)" in notes[0]


@pytest.mark.slow
def test_generate_falls_back_to_the_checkpoint_before_with_a_warning(tmp_path):
    flags = ["--config=experiments/bigram.py:smoke", f"--workdir={tmp_path / 'run'}"]
    assert run("main.py", *flags, WANDB_MODE="disabled").returncode == 0
    whole = run("generate.py", f"--workdir={tmp_path / 'run'}", "--checkpoint=10")
    flip(tmp_path / "run/checkpoints/20/params.safetensors", 8000)
    for which in ("latest", "best"):
        result = run("generate.py", f"--workdir={tmp_path / 'run'}", f"--checkpoint={which}")
        assert result.returncode == 0
        assert result.stdout == whole.stdout
        warning, step = result.stderr.splitlines()
        assert "checkpoint 20 is damaged (params.safetensors has sha256" in warning
        assert "using that of step 10" in warning and step.endswith("step 10")


@pytest.mark.slow
def test_a_reader_takes_the_next_checkpoint_when_a_run_deletes_the_one_being_read(workdir):
    """A reader of a live run never sees half a checkpoint."""
    save(workdir, {1: None})
    shapes = jax.tree.map(jnp.asarray, state_of(0.0).params)
    seen, stop = [], threading.Event()

    def write():
        with Checkpoints(workdir) as checkpoints:
            for step in itertools.count(2):
                checkpoints.save(step, state_of(float(step)), PROGRESS, None)
                if stop.is_set() and step >= 150:
                    return

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    notes = []
    while writer.is_alive():
        with Checkpoints(workdir, note=notes.append) as checkpoints:
            step, params = checkpoints.restore_params("latest", shapes)
        np.testing.assert_array_equal(params["layer"]["kernel"], float(step))
        seen.append(step)
        if len(set(seen)) > 3:
            stop.set()
    assert seen == sorted(seen)
    assert notes == []


SAVE = """
import resource, sys
from pathlib import Path
from tests.test_checkpoint import restore, save, state_of, PROGRESS
from checkpoints.manager import Checkpoints
workdir, notes = Path(sys.argv[1]), []
save(workdir, {1: None})
with Checkpoints(workdir, 9, notes.append) as checkpoints:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    checkpoints.save(2, state_of(2.0, (300, 4)), PROGRESS, None)
    assert not checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert checkpoints.steps() == [1]
    checkpoints.save(3, state_of(3.0), PROGRESS, None)
    assert checkpoints.wait()
(note,) = notes
assert "The checkpoint of step 2 was not saved" in note and "File too large" in note, note
assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["1", "3"]
assert restore(workdir).step == 3
"""


@pytest.mark.long
def test_a_save_that_fails_is_no_checkpoint_and_the_next_one_is_tried(workdir):
    subprocess.run([sys.executable, "-c", SAVE, workdir], cwd=ROOT, check=True)


def test_what_is_not_finite_is_not_saved(workdir):
    notes = []
    with Checkpoints(workdir, 9, notes.append) as checkpoints:
        checkpoints.save(1, state_of(1.0), PROGRESS, None)
        checkpoints.save(2, state_of(float("inf")), PROGRESS, None)
        assert not checkpoints.wait()
        assert checkpoints.steps() == [1]
    assert "step 2 was not saved (it holds numbers that are not finite)" in notes[0]


def test_the_next_save_removes_what_a_kill_left_of_one(workdir):
    save(workdir, {1: None})
    for name in (".2.new", ".1.old"):
        (workdir / "checkpoints" / name).mkdir()
        (workdir / "checkpoints" / name / "params.safetensors").write_bytes(b"half")
    assert restore(workdir).step == 1
    save(workdir, {2: None})
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["1", "2"]


def test_a_checkpoint_of_another_shape_is_refused_with_the_difference(workdir):
    save(workdir, {1: None})
    other = state_of(0.0, (3, 5))
    with Checkpoints(workdir) as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore(other)
    assert "+layer/kernel ['F32', 3, 4], -layer/kernel ['F32', 3, 5]" in str(error.value)


@pytest.mark.parametrize("progress", [None, [], {"seconds": "x"}, {"logged": {"seconds": None}}])
def test_progress_that_is_not_numbers_is_damage(workdir, progress):
    save(workdir, {1: None, 2: None})
    folder = workdir / "checkpoints/2"
    about = {**file_format.read_metadata(folder), "progress": progress}
    vouched = {"about": about, "sha256": file_format.digest_of(about)}
    run_folder.write_json(folder / "checkpoint.json", vouched)
    notes = []
    assert restore(workdir, notes).step == 1
    assert "holds no progress of a run" in notes[0]


def test_a_checkpoint_under_another_name_is_damage(workdir):
    save(workdir, {1: None})
    shutil.copytree(workdir / "checkpoints/1", workdir / "checkpoints/99")
    notes = []
    assert restore(workdir, notes).step == 1
    assert "checkpoint 99 is damaged (it is that of step 1, under another name)" in notes[0]


def test_no_name_in_a_checkpoint_decides_which_file_opens(workdir):
    """Only the two known files open, whatever paths the metadata lists."""
    save(workdir, {1: None})
    folder = workdir / "checkpoints/1"
    about = file_format.read_metadata(folder)
    about["files"]["../../../../etc/passwd"] = about["files"]["params"]
    vouched = {"about": about, "sha256": file_format.digest_of(about)}
    run_folder.write_json(folder / "checkpoint.json", vouched)
    opened = []
    watch = {"on": True}
    sys.addaudithook(
        lambda event, arguments: (
            opened.append(str(arguments[0])) if watch["on"] and event == "open" else None
        )
    )
    assert restore(workdir).step == 1
    watch["on"] = False
    assert any(str(workdir) in path for path in opened)
    assert not any("passwd" in path for path in opened)


def test_saving_keeps_no_copy_in_memory(workdir):
    """Peak memory stays that of the first saves."""
    state = state_of(1.0, (1000, 1000))
    with Checkpoints(workdir) as checkpoints:
        for step in range(1, 4):
            checkpoints.save(step, state, PROGRESS, None)
        checkpoints.wait()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for step in range(4, 12):
            checkpoints.save(step, state, PROGRESS, None)
        checkpoints.wait()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB; one: 12 MB.


def test_a_checkpoint_can_be_read_by_any_other_program(workdir):
    """The safetensors library alone reads names, shapes and numbers."""
    from safetensors.numpy import load_file

    save(workdir, {7: None})
    tensors = load_file(Path(workdir, "checkpoints/7/params.safetensors"))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "layer/kernel": (3, 4),
        "layer/bias": (4,),
    }
    shutil.rmtree(workdir / "checkpoints")
    assert restore(workdir) is None
