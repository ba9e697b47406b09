"""Early stopping: the step at which a run ends, its normal end, and the end of a resumed run."""

import json
import shutil

import pytest
from ml_collections import ConfigDict

import run_folder
import train
from checkpoints.manager import Checkpoints
from reporting import runs
from tests.forked import run
from tests.test_tracking import leet, wandb_folders
from tests.test_train import arrays, lines, resume_from, smoke
from training.early_stopping import EarlyStopping

# A learning rate that ruins the model: the loss is lowest at step 4, of 0, 4, ... 36.
RUINED = {
    "train.num_steps": 40,
    "eval.every_steps": 4,
    "eval.patience": 3,
    "optimizer.learning_rate": 10.0,
    "optimizer.warmup_steps": 40,
    "checkpoint.keep": 9,
}


def config_of(**changes):
    return smoke("bigram", **{**RUINED, "checkpoint.resume": True, **changes})


def rest(workdir):
    """The summary without what a clock measured."""
    summary = run_folder.read_json(workdir / run_folder.SUMMARY)
    clock = ("seconds", "wall_seconds", "train/tokens_per_second")
    return {key: value for key, value in summary.items() if key not in clock}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped early, with what its command printed."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    flags = [f"--config.{key}={value}" for key, value in RUINED.items()]
    result = run(
        "main.py", "--config=bigram:smoke", f"--workdir={workdir}", *flags, WANDB_MODE="offline"
    )
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "end"),
    [
        ([4, 3, 2, 1], 1, 0.0, None),
        ([4, 3, 3, 2], 1, 0.0, 2),  # Equal is no improvement.
        ([4, 5, 5, 3, 3.5, 3.2, 3.1], 3, 0.0, 6),
        ([4, 5, 5, 3, 5, 5], 3, 0.0, None),  # The count begins anew.
        ([4.0, 3.75, 3.5, 3.25], 2, 0.5, None),  # Small improvements add up.
        ([4.0, 3.75, 3.5, 3.5, 3.25], 1, 0.5, 1),
        ([4.0, 3.5, 3.0], 1, 0.5, None),  # Just as large as it has to be.
        ([4, float("inf"), float("nan")], 2, 0.0, 2),
        ([4, 5, 5, 5], 0, 0.0, None),  # Off.
    ],
)
def test_an_end_is_where_the_patience_is(losses, patience, min_delta, end):
    config = ConfigDict({"patience": patience, "min_delta": min_delta})
    record = [{"step": 10 * n, "val/loss": loss} for n, loss in enumerate(losses)]
    found = None
    early = EarlyStopping(config, [])
    for n, line in enumerate(record):
        early.note(line["step"], line["val/loss"])
        # Read from the record at any time, it is where it was.
        between = {"step": line["step"] + 5, "train/loss": 1.0}
        assert EarlyStopping(config, [*record[: n + 1], between]).reason == early.reason
        if found is None and early.reason:
            found = n
    assert found == end


@pytest.mark.long
def test_a_run_that_stops_early_ends_like_any_other(stopped):
    workdir, printed = stopped
    *_, said, upload, last = printed.splitlines()
    assert said.startswith("stopped early at step 16: val/loss has not improved since step 4")
    assert printed.count("stopped early") == 1
    assert last.startswith("done: val loss ") and "wandb sync" in upload
    summary = run_folder.read_json(workdir / run_folder.SUMMARY)
    assert (summary["status"], summary["step"], summary["best/step"]) == ("done", 16, 4)
    assert said == f"stopped early at step 16: {summary['stop_reason']}"
    # Its last step has all that a last step has.
    assert {"train/loss", "val/loss"} <= set(lines(workdir)[-1])
    assert [sample["step"] for sample in lines(workdir, run_folder.SAMPLES)] == [0, 10, 16]
    with Checkpoints(workdir) as checkpoints:
        assert (checkpoints.find("best")[0], checkpoints.find("latest")[0]) == (4, 16)
    (found,), _ = runs.read_runs([workdir])
    assert found.status == "done"
    logged = json.loads(leet(*wandb_folders(workdir), "--summary"))
    assert (logged["state"], logged["exit_code"]) == ("finished", 0)
    assert logged["summary"]["stop_reason"] == summary["stop_reason"]


@pytest.mark.long
@pytest.mark.parametrize("step", [4, 12, 16])
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(step, stopped, tmp_path):
    """At step 16 it was killed between its last checkpoint and its summary."""
    whole, _ = stopped
    shutil.copytree(whole, tmp_path / "killed")
    (tmp_path / "killed/summary.json").unlink()
    resume_from(step, tmp_path / "killed", tmp_path / "run", config_of())
    for name in (run_folder.METRICS, run_folder.SAMPLES):
        assert lines(whole, name) == lines(tmp_path / "run", name)
    assert rest(whole) == rest(tmp_path / "run")
    for one, other in zip(arrays(whole, 16), arrays(tmp_path / "run", 16), strict=True):
        assert {key: leaf.tobytes() for key, leaf in one.items()} == {
            key: leaf.tobytes() for key, leaf in other.items()
        }


@pytest.mark.long
def test_a_run_that_stopped_early_goes_on_if_it_is_asked_to(stopped, tmp_path, capsys):
    shutil.copytree(stopped[0], tmp_path / "run")
    before = (tmp_path / "run/summary.json").read_bytes()
    # The same command, and more steps, which the run had enough of.
    for changes in ({}, {"train.num_steps": 60}, {"eval.patience": 2}):
        train.train_and_evaluate(config_of(**changes), tmp_path / "run")
        assert "stopped early at step 16 already: val/loss has not" in capsys.readouterr().out
        assert (tmp_path / "run/summary.json").read_bytes() == before
    train.train_and_evaluate(config_of(**{"eval.patience": 5}), tmp_path / "run")
    assert rest(tmp_path / "run")["step"] == 24
    train.train_and_evaluate(config_of(**{"eval.patience": 5}), tmp_path / "whole")
    extra = {"train/loss", "train/grad_norm", "train/learning_rate"}  # Step 16 was a last step.
    for one, other in zip(lines(tmp_path / "run"), lines(tmp_path / "whole"), strict=True):
        assert other == one or (one.keys() - other.keys() == extra and one["step"] == 16)
        assert one.items() >= other.items()
    # Not off, but with the last step: nothing stops early.
    train.train_and_evaluate(
        config_of(**{"eval.patience": 6, "train.num_steps": 28}), tmp_path / "run"
    )
    assert rest(tmp_path / "run")["step"] == 28 and "stop_reason" not in rest(tmp_path / "run")
    train.train_and_evaluate(config_of(**{"eval.patience": 0}), tmp_path / "run")
    assert rest(tmp_path / "run")["step"] == 40
