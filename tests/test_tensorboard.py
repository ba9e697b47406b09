"""The TensorBoard sink, read back by TensorBoard's own reader."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import TENSORS, EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.util import tensor_util

import run_folder
from tests.command import ROOT, wait_until
from tests.test_tracking import log_steps, make_config, metrics_at
from tracking import open_tracker

ALONE = {"tracking.sinks": ("tensorboard",)}


def opened(workdir, **arguments):
    return open_tracker(make_config(**ALONE), workdir, num_params=1, **arguments)


def read(workdir):
    """Returns what TensorBoard has of a run."""
    return EventAccumulator(str(workdir / "tensorboard"), {TENSORS: 0}).Reload()


def points(workdir, plugin):
    """Returns (step, tag, tensor) of all that a plugin shows, each tag in the order of steps."""
    found = read(workdir)
    tags = found.PluginTagToContent(plugin)
    return [(one.step, tag, one.tensor_proto) for tag in tags for one in found.Tensors(tag)]


def scalars(workdir):
    """Returns (step, metric, value) of all metrics."""
    found = points(workdir, "scalars")
    return [(step, tag, tensor_util.make_ndarray(tensor).item()) for step, tag, tensor in found]


def recorded(workdir):
    """Returns the same of the record; TensorBoard keeps 32 bits of a number."""
    return [
        (line["step"], key, np.float32(np.nan if value is None else value))
        for line in run_folder.read_lines(workdir / run_folder.METRICS)
        for key, value in line.items()
        if key != "step"
    ]


def samples(workdir):
    """Returns (step, text) of all samples."""
    found = points(workdir, "text")
    texts = [tensor_util.make_ndarray(tensor).item().decode() for _, _, tensor in found]
    # Each line is indented by four: a block of code in Markdown.
    assert all(line.startswith("    ") for text in texts for line in text[:-1].split("\n"))
    shown = ["\n".join(line[4:] for line in text[:-1].split("\n")) for text in texts]
    return [(step, text) for (step, *_), text in zip(found, shown, strict=True)]


def assert_mirrors_the_record(workdir):
    found, expected = sorted(scalars(workdir)), sorted(recorded(workdir))
    assert [point[:2] for point in found] == [point[:2] for point in expected]
    values = [[value for *_, value in points] for points in (found, expected)]
    np.testing.assert_array_equal(*values)  # NaN equals NaN.
    lines = run_folder.read_lines(workdir / run_folder.SAMPLES)
    assert samples(workdir) == [(line["step"], line["prompt"] + line["text"]) for line in lines]


def test_event_files_mirror_the_record(tmp_path):
    tracker = opened(tmp_path)
    log_steps(tracker, range(0, 30, 5))
    tracker.log_sample(30, "A:\n", "*not* bold\n\n  <b>é</b>\x1b")
    assert_mirrors_the_record(tmp_path)  # Before it ends: a run that is killed has them.
    tracker.finish({"status": "done"})
    assert_mirrors_the_record(tmp_path)
    assert not (tmp_path / "wandb").exists()
    content = read(tmp_path).PluginTagToContent(hparams.PLUGIN_NAME)
    start = hparams.parse_session_start_info_plugin_data(content[hparams.SESSION_START_INFO_TAG])
    assert start.hparams["config.optimizer.learning_rate"].number_value == 1e-3
    assert start.hparams["config.tracking.sinks"].string_value == "tensorboard"
    assert hparams.SESSION_END_INFO_TAG in content


@pytest.mark.parametrize("saved_at", [None, 0, 20])
def test_a_resumed_run_has_each_step_once(saved_at, tmp_path):
    """Also one that was killed in the middle of a line, or before its first checkpoint."""
    log_steps(opened(tmp_path), range(0, 40, 5))
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    tracker = opened(tmp_path, resumed_from=saved_at)
    assert_mirrors_the_record(tmp_path)
    log_steps(tracker, range(0 if saved_at is None else saved_at + 5, 45, 5))
    tracker.finish({"status": "done"})
    steps = [line["step"] for line in run_folder.read_lines(tmp_path / run_folder.METRICS)]
    assert steps == list(range(0, 45, 5))
    assert_mirrors_the_record(tmp_path)


def test_a_sink_that_is_added_later_has_the_whole_run(tmp_path):
    without = make_config(**{"tracking.sinks": ()})
    log_steps(open_tracker(without, tmp_path, num_params=1), range(0, 40, 5))
    assert not (tmp_path / "tensorboard").exists() and not (tmp_path / "wandb").exists()
    log_steps(opened(tmp_path, resumed_from=20), range(25, 45, 5))
    assert_mirrors_the_record(tmp_path)


def test_a_folder_that_can_t_be_written_costs_nothing_but_tensorboard(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("")
    tracker = opened(tmp_path)
    tracker.log(0, metrics_at(0))
    assert "TensorBoard did not start, the run continues without it" in capsys.readouterr().out
    (tmp_path / "tensorboard").unlink()
    tracker = opened(tmp_path)
    tracker.log(0, metrics_at(0))
    for path in (tmp_path / "tensorboard").iterdir():
        path.unlink()
        path.mkdir()
    tracker.log(1, metrics_at(1))
    tracker.log(2, metrics_at(2))
    assert capsys.readouterr().out.count("TensorBoard failed, the run continues without it") == 1
    assert tracker.finish({"status": "done"})


@pytest.mark.long
def test_a_run_that_is_killed_and_resumed_is_whole(tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "main.py", "--config=experiments/bigram.py:smoke"]
    command += [f"--workdir={workdir}", "--config.train.num_steps=300000"]
    command += ["--config.tracking.sinks=tensorboard", "--config.eval.every_steps=100"]
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    saved = (workdir / "checkpoints").glob
    wait_until(lambda: any(saved("[1-9]*")) and len(recorded(workdir)) > 200)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    lines = list(run_folder.read_lines(workdir / run_folder.METRICS))
    end = lines[-1]["step"] + 100
    command += [f"--config.train.num_steps={end}", "--config.checkpoint.resume=true"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    assert len(list((workdir / "tensorboard").iterdir())) == 2
    assert scalars(workdir)[-1][0] == end
    assert_mirrors_the_record(workdir)
