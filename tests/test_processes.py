"""Runs of several processes: they train as one, stop as one, and end when one of them dies."""

import itertools
import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

import run_folder
from checkpoints import file_format
from runtime import cluster
from runtime.errors import UserError
from tests.command import assert_refused, run, wait_until
from tests.processes import ENDLESS, SHORT, SMOKE, Processes, free_port, lines

TREES = ("params", "opt_state")


def saved(workdir, step):
    """Returns all arrays of a checkpoint, which one of its files has each."""
    folder = workdir / f"checkpoints/{step}"
    files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    named = [
        ((path.name.partition("-")[0].partition(".")[0], name), array)
        for path in files
        for name, array in load_file(path).items()
    ]
    assert len(named) == len(dict(named))
    return dict(named)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Returns the folder of a run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    variables = {"JAX_NUM_CPU_DEVICES": "4", "WANDB_MODE": "disabled"}
    result = run("main.py", *SMOKE, f"--workdir={workdir}", **variables)
    assert result.returncode == 0, result.stderr
    return workdir


def assert_equal_runs(one, many):
    """They have the same numbers, up to the order of summation, and the same samples."""
    for step, line in lines(one).items():
        assert lines(many)[step] == pytest.approx(line, rel=1e-6), step
    samples = [list(run_folder.read_lines(path / run_folder.SAMPLES)) for path in (one, many)]
    assert samples[0] == samples[1]


@pytest.mark.long
@pytest.mark.parametrize(("count", "devices"), [(2, 2), (4, 1)])
def test_processes_train_as_one(count, devices, one, tmp_path):
    workdir = tmp_path / "run"
    (first, *others) = Processes(count, *SMOKE, f"--workdir={workdir}", devices=devices).wait()
    assert (first[0], first[2]) == (0, "")
    assert " · 4 x cpu (data 2, fsdp 2), float32 · " in first[1]
    assert "done: val loss" in first[1] and "Gloo" not in first[1]
    assert others == [(0, "", "")] * (count - 1)  # Process 0 alone writes.
    assert_equal_runs(one, workdir)
    for name, array in saved(one, 20).items():
        np.testing.assert_allclose(saved(workdir, 20)[name], array, rtol=1e-4, atol=1e-5)
    assert run_folder.read_json(workdir / "summary.json")["status"] == "done"
    assert_dealt(workdir / "checkpoints/20", count)
    assert_every_flipped_bit_is_found(workdir / "checkpoints/20")


def assert_dealt(folder, count):
    """Each process has written a part of about the same size, and left nothing else."""
    parts = {
        f"{tree}-{number}-of-{count}.safetensors"
        for tree in ("params", "opt_state")
        for number in range(count)
    }
    assert {path.name for path in folder.iterdir()} == {*parts, "checkpoint.json"}
    sizes = [
        sum((folder / f"{tree}-{number}-of-{count}.safetensors").stat().st_size for tree in TREES)
        for number in range(count)
    ]
    assert max(sizes) < 1.3 * min(sizes)


def assert_every_flipped_bit_is_found(folder):
    """One bit in any file of a checkpoint, whoever wrote it."""
    draw = random.Random(0)
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(file_format.Damaged, match=f"^{path.name} has sha256"):
            file_format.check_files(folder, path.name.partition("-")[0])
        path.write_bytes(content)
    for tree in TREES:
        file_format.check_files(folder, tree)


def started(workdir):
    """Returns two processes of a long run that have made their first steps."""
    flags = [*SHORT, *ENDLESS, "--config.train.num_steps=100000", f"--workdir={workdir}"]
    both = Processes(2, *flags, devices=2)
    wait_until(lambda: (workdir / "checkpoints/20").exists() or both.all[0].poll() is not None)
    return both


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_in_one_line(victim, tmp_path):
    both = started(tmp_path / "run")
    both.all[victim].kill()
    killed = time.monotonic()
    ((code, _, error),) = both.wait(without=[victim])
    assert time.monotonic() - killed < 10
    assert code not in (0, None)
    assert error.startswith("error: another process of this run has ended, or does not answer (")
    assert error.endswith("--config.checkpoint.resume=true\n") and error.count("\n") == 1
    # It goes on with one process, where it was saved.
    last = max(int(path.name) for path in (tmp_path / "run/checkpoints").glob("[0-9]*"))
    more = [*ENDLESS, "--config.checkpoint.resume=true", f"--config.train.num_steps={last + 5}"]
    alone = run(
        "main.py",
        *(*SHORT, *more, f"--workdir={tmp_path / 'run'}"),
        JAX_NUM_CPU_DEVICES="4",
        WANDB_MODE="disabled",
    )
    assert alone.returncode == 0, alone.stderr
    assert max(lines(tmp_path / "run")) == last + 5


@pytest.mark.long
@pytest.mark.parametrize("receiver", [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(receiver, tmp_path):
    both = started(tmp_path / "run")
    both.all[receiver].send_signal(signal.SIGTERM)
    (code, shown, error), other = both.wait()
    assert (code, other) == (143, (143, "", ""))
    (step,) = (line.split(",")[0].split()[-1] for line in error.splitlines())
    assert error.startswith(f"stopped at step {step}, which is saved: resume with ")
    assert ("SIGTERM in another process" in shown) == (receiver == 1)
    assert max(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()) == int(step)
    if receiver == 0:
        return
    # Resumed by as many, it equals a run that never stopped, bit for bit.
    more = [*ENDLESS, f"--config.train.num_steps={int(step) + 10}"]
    again = ["--config.checkpoint.resume=true", f"--workdir={tmp_path / 'run'}"]
    resumed = Processes(2, *SHORT, *more, *again, devices=2).wait()
    whole = Processes(2, *SHORT, *more, f"--workdir={tmp_path / 'whole'}", devices=2).wait()
    assert [code for code, _, _ in (*resumed, *whole)] == [0] * 4
    end = int(step) + 10
    for name, array in saved(tmp_path / "whole", end).items():
        np.testing.assert_array_equal(saved(tmp_path / "run", end)[name], array)


@pytest.mark.long
def test_a_process_that_can_not_write_costs_that_checkpoint_only(tmp_path):
    workdir = tmp_path / "run"
    both = started(workdir)
    pid = both.all[1].pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, most))
    newest = max(lines(workdir))  # One under way may still be saved.
    wait_until(lambda: max(lines(workdir)) > newest + 30 or both.all[0].poll() is not None)
    kept = newest_saved(workdir)
    assert kept <= newest + 10
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    wait_until(lambda: newest_saved(workdir) > kept or both.all[0].poll() is not None)
    both.all[0].send_signal(signal.SIGTERM)
    (code, shown, _), (other, _, own) = both.wait()
    assert (code, other) == (143, 143)
    lost = kept + 10
    message = f"The checkpoint of step {lost} was not saved (process 1 has not written its part); t"
    assert message in " ".join(shown.split())
    assert own.startswith(
        f"warning: Process 1: The checkpoint of step {lost} was not saved ([Errno"
    )


def newest_saved(workdir):
    """Returns the step of the newest checkpoint."""
    return max(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))


@pytest.mark.long
def test_a_damaged_part_is_found_by_one_process_and_passed_over_by_all(tmp_path):
    workdir = tmp_path / "run"
    flags = [*SHORT, *ENDLESS, f"--workdir={workdir}", "--config.checkpoint.keep=2"]
    made = Processes(4, *flags, "--config.train.num_steps=20").wait()
    assert [code for code, _, _ in made] == [0] * 4
    part = workdir / "checkpoints/20/opt_state-3-of-4.safetensors"  # That process 1 checks.
    content = bytearray(part.read_bytes())
    content[-5] ^= 4
    part.write_bytes(content)
    more = [*flags, "--config.checkpoint.resume=true", "--config.train.num_steps=25"]
    first, other = Processes(2, *more, devices=2).wait()
    assert (first[0], other) == (0, (0, "", ""))
    assert "checkpoint 20 is damaged (opt_state-3-of-4.safetensors has sha256" in first[2]
    assert "set aside: resuming from step 10" in " ".join(first[2].split())
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert names == {"20", "20.damaged", "25"}


@pytest.mark.long
def test_any_number_of_processes_resumes_the_same_run(tmp_path):
    """Saved by four, resumed by 1, 2 and 4, which goes on bit for bit as if it had not stopped."""
    flags = [*SHORT, *ENDLESS, "--config.checkpoint.resume=true"]
    made = Processes(4, *flags, f"--workdir={tmp_path / '4'}", "--config.train.num_steps=10").wait()
    assert [code for code, _, _ in made] == [0] * 4
    for name in ("1", "2"):
        shutil.copytree(tmp_path / "4", tmp_path / name)
    more = [*flags, "--config.train.num_steps=15"]
    alone = {"JAX_NUM_CPU_DEVICES": "4", "WANDB_MODE": "disabled"}
    one = run("main.py", *more, f"--workdir={tmp_path / '1'}", **alone)
    assert one.returncode == 0, one.stderr
    for count, name in ((2, "2"), (4, "4"), (4, "whole")):
        ended = Processes(count, *more, f"--workdir={tmp_path / name}", devices=4 // count).wait()
        assert [code for code, _, _ in ended] == [0] * count
    whole = saved(tmp_path / "whole", 15)
    for name, array in whole.items():
        np.testing.assert_array_equal(saved(tmp_path / "4", 15)[name], array)
        for other in ("1", "2"):
            close = dict(rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(saved(tmp_path / other, 15)[name], array, **close)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_does_not_answer_ends_the_other(victim, tmp_path):
    both = started(tmp_path / "run")
    both.all[victim].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    ((code, _, error),) = both.wait(without=[victim])
    assert time.monotonic() - stopped < 60
    assert code not in (0, None)
    assert error.startswith("error: another process of this run has ended, or does not answer (")
    assert error.count("\n") == 1


@pytest.mark.long
def test_a_refusal_is_one_line_and_reaches_all(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    taken = Processes(2, *SMOKE, f"--workdir={file}", devices=2).wait()
    assert taken == [
        (2, "", f"error: --workdir={file} is a file; a run needs a folder\n"),
        (2, "", ""),
    ]
    each = [["--config.seed=0"], ["--config.train.batch_size=6"]]
    own = Processes(2, *SMOKE, f"--workdir={tmp_path / 'run'}", devices=2, each=each).wait()
    assert own[0] == (2, "", "")
    assert own[1][2].startswith("error: --config.train.batch_size=6 can't be divided among 4 dev")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_processes_that_do_not_come_are_waited_for_so_long():
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", "--join_seconds=2"]
    for number in (0, 1):
        each = f"--process_id={number}"
        result = run("main.py", *SMOKE, *flags, each, TF_CPP_MIN_LOG_LEVEL="2")
        assert_refused(result, "the other processes have not joined within 2 s: start all of them")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("", 2, -1), "--num_processes=2: expected all of --coordinator, --num_processes and"),
        (("host:1", -1, 0), "--coordinator=host:1 --process_id=0: expected all of --coordinator,"),
        (("host", 2, 0), "--coordinator=host: expected HOST:PORT of process 0"),
        (("host:1", 2, 2), "--num_processes=2 --process_id=2: expected a number of processes of"),
        (("host:1", 0, 0), "--num_processes=0 --process_id=0: expected a number of processes of"),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(UserError) as refused:
        cluster.join(*flags, 1)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("names", cluster.LAUNCHERS)
def test_a_launcher_of_several_processes_is_found(names, monkeypatch):
    for name in itertools.chain(*cluster.LAUNCHERS):
        monkeypatch.delenv(name, raising=False)
    assert not cluster.is_launched()
    for name in names:
        monkeypatch.setenv(name, "2")
    assert cluster.is_launched()
    monkeypatch.setenv(names[0], "1")  # One process alone.
    assert not cluster.is_launched()
    monkeypatch.setenv(names[0], "2")
    monkeypatch.delenv(names[1])  # An allocation without `srun`.
    assert not cluster.is_launched()
    cluster.join("", 1, -1, 1)  # Alone, whatever started it: nothing to wait for.
