"""Snapshots: when they are due, what they hold, and that a resumed run makes the same ones."""

import shutil
from itertools import pairwise

import numpy as np
import pytest

import harness
import run_folder
from checkpoints import file_format
from checkpoints.snapshots import Snapshots, steps_of
from training.due import Due

FLAGS = {
    "tracking.wandb_mode": "disabled",
    "train.num_steps": 16,
    "checkpoint.snapshots": 5,
    "checkpoint.every_steps": 8,
    "checkpoint.keep": 9,
}


def test_steps_are_spaced_by_ratio_up_to_the_last():
    assert steps_of(1000, 4) == [1, 10, 100, 1000]
    assert steps_of(16, 5) == [1, 2, 4, 8, 16]
    assert steps_of(3, 12) == [1, 2, 3]  # No step twice.
    assert steps_of(50, 1) == [50] and steps_of(50, 0) == []
    many = steps_of(5320, 12)
    assert len(many) == 12 and many[-1] == 5320
    assert all(
        later / one == pytest.approx(5320 ** (1 / 11), rel=0.3) for one, later in pairwise(many)
    )


def test_a_snapshot_ends_a_dispatch_and_is_due_alone():
    due = Due(20, log=0, evaluate=0, sample=None, save=0, snapshot_at=[3, 20])
    assert [due.next(step, 20) for step in (0, 1, 3)] == [1, 3, 20]
    assert due.at(3) and due.snapshot(3) and not (due.save(3) or due.log(3))
    assert not due.snapshot(4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return harness.train("bigram:smoke", tmp_path_factory.mktemp("snapshots") / "run", **FLAGS)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_they_hold_the_parameters_of_their_steps(run):
    kept = Snapshots(run.workdir)
    assert kept.steps() == [1, 2, 4, 8, 16]
    for step in (8, 16):
        expected = harness.open_run(run.workdir, f"{step}").params
        made = kept.read(step, run.params)
        np.testing.assert_array_equal(
            made["next_token"]["embedding"], expected["next_token"]["embedding"]
        )
    one, later = (kept.read(step, run.params)["next_token"]["embedding"] for step in (1, 2))
    assert (one != later).any()


def test_a_resumed_run_makes_the_same_ones(run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run.workdir, workdir)
    # As if it had been killed between steps 8 and 16, a snapshot of another future behind it.
    shutil.rmtree(workdir / run_folder.CHECKPOINTS / "16")
    (workdir / run_folder.SUMMARY).unlink()
    shutil.copytree(workdir / "snapshots/1", workdir / "snapshots/12")
    shutil.rmtree(workdir / "snapshots/16")
    harness.train("bigram:smoke", workdir, **FLAGS, **{"checkpoint.resume": True})
    assert contents(workdir / "snapshots") == contents(run.workdir / "snapshots")


def test_a_damaged_one_is_known(run, tmp_path):
    shutil.copytree(run.workdir, tmp_path / "run")
    (path,) = (tmp_path / "run/snapshots/4").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(file_format.Damaged, match="sha256"):
        Snapshots(tmp_path / "run").read(4, run.params)


def test_one_that_cannot_be_written_is_a_note(run, tmp_path):
    shutil.copytree(run.workdir, tmp_path / "run")
    kept, notes = Snapshots(tmp_path / "run"), []
    shutil.rmtree(tmp_path / "run/snapshots")
    (tmp_path / "run/snapshots").write_text("a file")
    kept.save(4, run.params, notes.append)
    (note,) = notes
    assert note.startswith("The snapshot of step 4 was not saved (")
