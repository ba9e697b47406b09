"""The tracker: the record, the console, and the real W&B client, read back with W&B's own tool."""

import contextlib
import io
import itertools
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import run_folder
from experiments.default import get_config
from tests.command import PATIENCE, has_ended, wait_until
from tests.wandb_server import Server
from tracking import Tracker, console, open_tracker, wandb_process, wandb_run
from tracking.json_lines import JsonLines
from tracking.sink import Sink

ROOT = Path(__file__).parents[1]
RUN = Path(__file__).with_name("tracking_run.py")
KEY = "a" * 40


@pytest.fixture(autouse=True)
def private_environment(tmp_path_factory, monkeypatch):
    """Hides the tester's W&B account, settings and cache; nothing leaves the host."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def children():
    """Gives the processes that a test has started; none may stay behind.

    Those of an earlier file's tests, in the same pytest process, are not its own.
    """
    earlier = set(psutil.Process().children(recursive=True))

    def started(recursive=False):
        return [p for p in psutil.Process().children(recursive) if p not in earlier]

    yield started
    wait_until(lambda: all(has_ended(p.pid) for p in started(recursive=True)))


def make_config(**changes):
    config = get_config()
    config.update_from_flattened_dict(changes)
    return config.lock()


def metrics_at(step, **more):
    """Returns the metrics that the training loop logs after `step` updates."""
    position = {"tokens_seen": 256 * step, "train_flops": 1e6 * step, "seconds": 0.5 * step}
    return {"train/loss": 4.0 / (1 + step), **position, **more}


def log_steps(tracker, steps):
    """Logs metrics at each step; a validation loss and a sample at each multiple of 10.

    The validation loss is lowest at step 10, where it is 1, and NaN at step 0.
    """
    for step in steps:
        loss = 1 + abs(step - 10) if step else float("nan")
        validation = {"val/loss": loss} if step % 10 == 0 else {}
        norms = {"norms/grad/block_0/attention": 0.5 * step} if step % 10 == 5 else {}
        tracker.log(step, metrics_at(step, **validation, **norms))
        if step % 10 == 0:
            tracker.log_sample(step, "KING:", f"text of {step}")


def wait_for_wandb(tracker, workdir, first_step=0):
    """Logs until W&B has started; returns the next step."""
    steps = itertools.count(first_step)

    def has_started():
        tracker.log(step := next(steps), metrics_at(step))
        return (workdir / run_folder.WANDB).exists()

    wait_until(has_started)
    return next(steps)


def wandb_folders(workdir):
    """Returns the folders of W&B's runs, oldest first."""
    return sorted(workdir.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_ctime)


def leet(folder, *options):
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", *options, "--json"]
    return subprocess.run([*command, folder], capture_output=True, text=True, check=True).stdout


def read_wandb(folder):
    """Returns the records in a W&B run's file, by type."""
    records = {}
    for line in leet(folder).splitlines():
        record = json.loads(line)
        records.setdefault(record["type"], []).append(record[record["type"]])
    return records


def as_record(logged):
    """Returns the line of the record that a W&B row mirrors, and True if the row has a table."""
    row = {
        key: None if value == "NaN" else value
        for key, value in logged.items()
        if not key.startswith(("_", "samples"))
    }
    return row, any(key.startswith("samples") for key in logged)


def rows_of(folder):
    """Returns a W&B run's rows: (W&B's row number, the line of the record, has a table)."""
    history = read_wandb(folder).get("history", [])
    return [(row["step"].get("num", 0), *as_record(row["item"])) for row in history]


def record_of(workdir):
    """Returns the lines of the record as the W&B rows that should mirror them."""
    metrics = [(m, False) for m in run_folder.read_lines(workdir / run_folder.METRICS)]
    samples = [
        ({"step": s["step"]}, True) for s in run_folder.read_lines(workdir / run_folder.SAMPLES)
    ]
    ordered = sorted(metrics + samples, key=lambda line: line[0]["step"])
    return [(number, *line) for number, line in enumerate(ordered)]


def tables_of(folder):
    """Returns the sample tables of a W&B run, in the order of logging."""
    paths = folder.glob("files/media/table/samples_*.json")
    numbered = sorted(paths, key=lambda path: int(path.name.split("_")[1]))
    return [json.loads(path.read_text()) for path in numbered]


# --- The record ----------------------------------------------------------------------------------


def test_importing_the_package_is_cheap():
    check = (
        "import sys, run_folder; from tracking import wandb_run, json_lines, console\n"
        "print({'wandb', 'tensorboardX', 'google', 'rich', 'jax', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_the_record_is_exactly_what_was_logged(tmp_path):
    tracker = open_tracker(
        make_config(**{"tracking.wandb_mode": "disabled"}), tmp_path, num_params=1
    )
    tracker.log(0, {"val/loss": 4.17})
    tracker.log(50, {"train/loss": float("nan"), "tokens_seen": 3})
    tracker.log_sample(50, "\n", "a\tb\x1b[31m\n\u2028é")
    # Read before `finish`: a run that dies now loses nothing.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 0, "val/loss": 4.17},
        {"step": 50, "train/loss": None, "tokens_seen": 3},
    ]
    samples = list(run_folder.read_lines(tmp_path / "samples.jsonl"))
    assert samples == [{"step": 50, "prompt": "\n", "text": "a\tb\x1b[31m\n\u2028é"}]
    tracker.finish({"val/loss": 4.0, "status": "done"})
    assert run_folder.read_json(tmp_path / "summary.json") == {"val/loss": 4.0, "status": "done"}


def test_disabled_starts_nothing(tmp_path, children):
    tracker = open_tracker(
        make_config(**{"tracking.wandb_mode": "disabled"}), tmp_path, num_params=1
    )
    tracker.log(0, {"train/loss": 1.0})
    assert children() == []
    tracker.finish({})
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "summary.json"]


def test_only_the_record_may_stop_a_run(tmp_path, capsys):
    class Broken:
        def log(self, step, metrics):
            raise ValueError("no more paper")

    tracker = open_tracker(
        make_config(**{"tracking.wandb_mode": "disabled"}), tmp_path, num_params=1
    )
    tracker.add(Broken())
    tracker.log(0, {"train/loss": 1.0})
    tracker.log(1, {"train/loss": 0.5})
    assert capsys.readouterr().out.count("no more paper") == 1
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError):
        tracker.log(2, {"train/loss": 0.1})


def test_a_console_that_breaks_while_another_sink_speaks_is_dropped_once(tmp_path):
    class Broken:
        def note(self, message):
            raise OSError("no terminal")

        finish = log = note

    class Talkative(Sink):
        def finish(self, summary, exit_code, model):
            tracker.note("almost done")

    tracker = Tracker(JsonLines(tmp_path, None), Broken())
    tracker.add(Talkative())
    tracker.finish({"status": "done"})
    assert run_folder.read_json(tmp_path / "summary.json") == {"status": "done"}


def test_finish_never_raises(tmp_path, capsys):
    tracker = open_tracker(
        make_config(**{"tracking.wandb_mode": "disabled"}), tmp_path, num_params=1
    )
    (tmp_path / "summary.json").mkdir()
    tracker.finish({"status": "done"})
    assert "The summary was not written" in capsys.readouterr().out


# --- W&B, offline --------------------------------------------------------------------------------


@pytest.mark.long
def test_wandb_mirrors_the_record(tmp_path, capsys):
    workdir = tmp_path / "my run"
    workdir.mkdir()
    config = make_config(
        **{
            "tracking.experiment": "gpt2:smoke+rotary",
            "tracking.tags": ("a", "b"),
            "tracking.notes": "why",
        }
    )
    environment = {"command": ["main.py"], "device": "a processor", "jax": "1"}
    run_folder.write_json(workdir / "environment.json", environment)
    tracker = open_tracker(config, workdir, num_params=4225)
    log_steps(tracker, range(0, 30, 5))
    tracker.finish({"val/loss": 0.3, "best/val/loss": 0.2, "status": "done"}, exit_code=0)

    (folder,) = wandb_folders(workdir)
    records = read_wandb(folder)
    assert rows_of(folder) == record_of(workdir)
    # The x-axis of a curve, and the metrics that can replace it.
    defined = {m.get("name") or m["glob_name"]: m for m in records["metric"]}
    for glob in ("train/*", "val/*", "norms/*"):
        assert defined[glob]["step_metric"] == "step"
    assert all(defined[name]["options"]["hidden"] for name in ("step", "tokens_seen", "seconds"))

    (run,) = records["run"]
    about = (run["display_name"], run["run_group"], run["job_type"])
    assert about == ("my run", "gpt2:smoke+rotary", "train")
    assert (run["project"], run["notes"]) == ("transformers-from-scratch", "why")
    assert run["tags"] == ["gpt2", "smoke", "rotary", "a", "b"]
    summary = json.loads(leet(folder, "--summary"))
    assert summary["state"] == "finished" and summary["exit_code"] == 0
    assert (
        summary["summary"].items()
        >= {
            "val/loss": 0.3,
            "best/val/loss": 0.2,
            "status": "done",
            "train/loss": 4.0 / 26,
        }.items()
    )
    # Every key of the config once, under its flag's name, and the environment without the command.
    flat = {f"config.{key}": value for key, value in flatten(config.to_dict()).items()}
    logged = {k: v for k, v in summary["config"].items() if k != "_wandb"}
    known = {"env.device": "a processor", "env.jax": "1", "num_params": 4225}
    assert logged == json.loads(json.dumps({**flat, **known}))
    # The command that uploads it, as it is typed.
    said = re.search(r"wandb sync (.*)", capsys.readouterr().out)[1]
    assert subprocess.check_output(f"echo {said}", shell=True, text=True).strip() == str(folder)


def flatten(nested):
    flat = {}
    for key, value in nested.items():
        inner = flatten(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{k}".rstrip("."): v for k, v in inner.items()}
    return flat


@pytest.mark.slow
def test_the_table_of_samples_grows(tmp_path):
    tracker = open_tracker(make_config(), tmp_path, num_params=1)
    for step in range(3):
        tracker.log_sample(step, "\n", f"\x1b[31m<script>{step}")
    tracker.finish({})
    tables = tables_of(*wandb_folders(tmp_path))
    assert [table["columns"] for table in tables] == [["step", "prompt", "text"]] * 3
    rows = [[step, "\n", f"\x1b[31m<script>{step}"] for step in range(3)]
    assert [table["data"] for table in tables] == [rows[:1], rows[:2], rows]


@pytest.mark.slow
def test_nothing_about_machine_or_code_is_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("SOME_SECRET", "hunter2hunter2")
    tracker = open_tracker(make_config(), tmp_path, num_params=1)
    wait_for_wandb(tracker, tmp_path)
    tracker.finish({})
    (folder,) = wandb_folders(tmp_path)
    assert sorted(os.listdir(folder / "files")) == []
    content = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"k" * 40 not in content and b"hunter2" not in content


@pytest.mark.slow
def test_the_id_is_kept_although_the_training_has_not_read_it(tmp_path):
    """Killed before it logs again, a run would else be sent twice to the agent's run."""
    tracker = open_tracker(make_config(), tmp_path, num_params=1)
    tracker.log(0, metrics_at(0))
    wait_until((tmp_path / run_folder.WANDB).exists)
    assert run_folder.read_json(tmp_path / run_folder.WANDB)["id"]
    tracker.finish({"status": "done"})


@pytest.mark.long
@pytest.mark.parametrize("wandb_knows_the_run", [True, False])
def test_a_resumed_run_is_whole(tmp_path, wandb_knows_the_run, monkeypatch):
    monkeypatch.setenv("WANDB_RESUME", "must")  # Without effect.
    tracker = open_tracker(make_config(), tmp_path, num_params=1)
    log_steps(tracker, range(0, 40, 5))
    tracker.finish({"status": "stopped"}, exit_code=1)
    first_id = run_folder.read_json(tmp_path / "wandb.json")["id"]
    if not wandb_knows_the_run:
        (tmp_path / "wandb.json").unlink()

    tracker = open_tracker(make_config(), tmp_path, num_params=1, resumed_from=20)
    assert not (tmp_path / "summary.json").exists()
    log_steps(tracker, range(25, 45, 5))
    tracker.finish({"status": "done"})

    steps = [line["step"] for line in run_folder.read_lines(tmp_path / "metrics.jsonl")]
    assert steps == list(range(0, 45, 5))
    first, second = wandb_folders(tmp_path)
    (run,) = read_wandb(second)["run"]
    # Rows of the first part that the second keeps, then the second's.
    if wandb_knows_the_run:
        last = run["branch_point"]["value"]
        assert run["branch_point"] == {"metric": "_step", "run": first_id, "value": last}
        assert run["run_id"] == first_id
        kept = [row for row in rows_of(first) if row[0] <= last]
    else:
        assert run["run_id"] != first_id
        kept = []
    assert kept + rows_of(second) == record_of(tmp_path)
    assert [row[0] for row in tables_of(second)[-1]["data"]] == [0, 10, 20, 30, 40]
    summary = json.loads(leet(second, "--summary"))["summary"]
    assert summary["best/val/loss"] == 1


@pytest.mark.long
def test_a_run_of_a_sweep_keeps_the_sweeps_values_and_id(tmp_path, monkeypatch):
    swept = tmp_path / "swept.yaml"
    swept.write_text("config.optimizer.learning_rate:\n  value: 0.25\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen1")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(swept))
    tracker = open_tracker(make_config(), tmp_path, num_params=1)
    tracker.log(0, {"train/loss": 1.0})
    tracker.finish({})
    (folder,) = wandb_folders(tmp_path)
    (run,) = read_wandb(folder)["run"]
    assert (run["run_id"], run["sweep_id"]) == ("chosen1", "sweep1")
    assert run["config"]["update"]["config.optimizer.learning_rate"] == 0.25
    assert run_folder.read_json(tmp_path / "wandb.json") == {"id": "chosen1", "url": None}
    assert run["job_type"] == "sweep"
    assert run["project"] == "transformers-from-scratch"


# --- W&B failing ---------------------------------------------------------------------------------


def kill_service(children):
    services = []
    for process in children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # W&B starts some that end soon.
            services += [process] if process.name() == "wandb-core" else []
    (service,) = services
    service.kill()


def kill_our_process(children):
    (process,) = children()
    process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [kill_service, kill_our_process])
def test_wandb_killed_in_mid_run_costs_nothing_but_wandb(tmp_path, capsys, children, fault):
    tracker = open_tracker(make_config(), tmp_path, num_params=1)
    first = wait_for_wandb(tracker, tmp_path)
    fault(children)
    for step in range(first, first + 20):
        tracker.log(step, metrics_at(step))
        time.sleep(0.05)
    tracker.finish({"status": "done"})
    notes = [line for line in capsys.readouterr().out.splitlines() if "W&B" in line]
    assert len(notes) == 1 and "the training continues" in notes[0]
    # No limit of time had to pass.
    assert "did not finish within" not in notes[0] and "timed out" not in notes[0]
    assert len(list(run_folder.read_lines(tmp_path / "metrics.jsonl"))) == first + 20
    assert run_folder.read_json(tmp_path / "summary.json") == {"status": "done"}
    # The W&B run is incomplete, so a resumed run starts another and sends it everything.
    assert not (tmp_path / "wandb.json").exists()


@pytest.mark.slow
def test_a_process_that_hangs_delays_no_log_and_is_ended(tmp_path, capsys, monkeypatch, children):
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 0.5 / wandb_run.PATIENCE)
    tracker = open_tracker(make_config(), tmp_path, num_params=1)
    wait_for_wandb(tracker, tmp_path)
    (process,) = children()
    process.suspend()
    # More than a pipe holds: a log that waited for the process would wait for ever.
    for step in range(1000, 3000):
        tracker.log(step, metrics_at(step))
    assert process.status() == psutil.STATUS_STOPPED
    tracker.finish({})
    assert has_ended(process.pid)
    assert "did not finish within 0.5 s" in capsys.readouterr().out


@pytest.mark.long
def test_rows_that_waited_for_a_slow_process_all_arrive(tmp_path, children):
    tracker = open_tracker(make_config(), tmp_path, num_params=1)
    step = wait_for_wandb(tracker, tmp_path)
    (process,) = children()
    process.suspend()
    log_steps(tracker, range(step, step + 1000))
    process.resume()
    tracker.finish({})
    assert rows_of(*wandb_folders(tmp_path)) == record_of(tmp_path)


def test_a_client_that_can_not_be_imported_is_one_note(tmp_path, capsys, monkeypatch):
    (tmp_path / "wandb.py").write_text("raise ImportError('broken install')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check_run_without_wandb(tmp_path / "run", capsys, "broken install")


@pytest.mark.slow
def test_a_folder_that_can_not_be_written_is_one_note(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("not a folder")
    check_run_without_wandb(tmp_path / "run", capsys, "Not a directory")


def test_a_process_that_can_not_be_started_is_one_note(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    check_run_without_wandb(tmp_path / "run", capsys, "/nonexistent/python")


def check_run_without_wandb(workdir, capsys, reason):
    workdir.mkdir(exist_ok=True)
    tracker = open_tracker(make_config(), workdir, num_params=1)
    log_steps(tracker, range(3))
    tracker.finish({"status": "done"})
    notes = [line for line in capsys.readouterr().out.splitlines() if "W&B" in line]
    assert len(notes) == 1 and reason in notes[0]
    assert len(list(run_folder.read_lines(workdir / "metrics.jsonl"))) == 3
    assert not (workdir / "wandb.json").exists()


@pytest.mark.slow
def test_a_full_disk_for_wandb_leaves_the_record_whole(tmp_path):
    # W&B's file reaches the limit: it is several times as large as the record.
    environment = {**os.environ, "FILE_BYTES": "8192"}
    done = subprocess.run([sys.executable, RUN, tmp_path, "60"], env=environment)
    assert done.returncode == 0
    assert len(list(run_folder.read_lines(tmp_path / "metrics.jsonl"))) == 60
    assert run_folder.read_json(tmp_path / "summary.json")["status"] == "done"
    (folder,) = wandb_folders(tmp_path)
    (file,) = folder.glob("*.wandb")
    assert file.stat().st_size == 8192


@contextlib.contextmanager
def started_run(workdir):
    """Yields a run in a process of its own that logs for minutes, once W&B has started."""
    command = [sys.executable, RUN, workdir, "10000", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while (line := process.stdout.readline()) != "started\n":
            assert line, "it has ended"
        # What it prints from now on, too, so that it never waits for room in the pipe.
        reading = threading.Thread(target=process.stdout.read)
        reading.start()
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()
            reading.join()


@pytest.mark.long
def test_a_killed_run_keeps_its_record_and_its_wandb_rows(tmp_path):
    with started_run(tmp_path) as process:
        before = len(record_of(tmp_path))
        wait_until(lambda: len(record_of(tmp_path)) > before + 5)
        mirror = process.children()
        process.kill()
    wait_until(lambda: all(has_ended(one.pid) for one in mirror))
    # W&B's process outlives the run until it has saved every row it was sent.
    (folder,) = wandb_folders(tmp_path)
    assert rows_of(folder) == record_of(tmp_path)
    assert json.loads(leet(folder, "--summary"))["state"] == "failed"


@pytest.mark.long
def test_a_machine_that_dies_keeps_what_was_logged_before(tmp_path):
    """W&B's process saves while it waits for more: no row, and no end, has to come first."""
    with started_run(tmp_path) as process:
        process.suspend()
        (folder,) = wandb_folders(tmp_path)
        wait_until(lambda: len(rows_of(folder)) == len(record_of(tmp_path)))
        for victim in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):  # It may end when another is gone.
                victim.kill()
    assert rows_of(folder) == record_of(tmp_path)


# --- W&B, online ---------------------------------------------------------------------------------


@pytest.mark.long
def test_no_key_falls_back_to_offline(tmp_path, capsys):
    tracker = open_tracker(make_config(**{"tracking.wandb_mode": "online"}), tmp_path, num_params=1)
    log_steps(tracker, range(0, 20, 5))
    tracker.finish({})
    output = capsys.readouterr().out
    assert output.count("logged offline") == 1 and "wandb sync" in output
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert rows_of(folder) == record_of(tmp_path)


@pytest.mark.long
def test_a_server_gets_each_row_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    config = make_config(**{"tracking.wandb_mode": "online", "tracking.wandb_entity": "entity"})
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        tracker = open_tracker(config, tmp_path, num_params=7)
        # A signal is noted in a thread of its own.
        notes = [f"note {number}" for number in range(300)]
        noting = threading.Thread(target=lambda: [tracker.note(note) for note in notes])
        noting.start()
        log_steps(tracker, range(0, 50, 5))
        noting.join()
        tracker.finish({"status": "done"})
    sent = [(number, *as_record(row)) for number, row in server.history.items()]
    assert sent == record_of(tmp_path)
    # The Logs tab has what was printed until the run was finished, each line after its time.
    printed = capsys.readouterr().out.splitlines()
    lines = [line.partition(" ")[2] for _, line in sorted(server.console.items())]
    assert lines[-1] == printed[-1] == "done" and set(notes) < set(lines) <= set(printed)
    assert [line for line in lines if line in notes] == notes
    assert [line for line in lines if line not in notes] == [
        line for line in printed if line in lines and line not in notes
    ]
    first = next(variables for name, variables in server.operations if name == "UpsertBucket")
    assert (first["project"], first["entity"]) == ("transformers-from-scratch", "entity")
    assert first["groupName"] == "bigram"
    address = run_folder.read_json(tmp_path / "wandb.json")["url"]
    assert address.startswith(server.url) and f"at {address}\n" in "\n".join([*printed, ""])
    assert json.loads(first["config"])["num_params"] == {"value": 7}


@pytest.fixture
def stopped_run(tmp_path_factory, monkeypatch):
    """A run whose stop button is pressed. The client polls it every 15 s, beside the test."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with Server(stopped=True) as server:
        environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_MODE": "online"}
        process = subprocess.Popen(
            [sys.executable, RUN, tmp_path_factory.mktemp("stopped"), "10000", "0.1"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        yield process
        process.kill()
        process.wait()


@pytest.mark.long
def test_bad_servers_cost_seconds_and_a_stop_button_interrupts(
    stopped_run, tmp_path, capsys, monkeypatch, children
):
    """Runs all cases at once, so that the client's timeouts run in parallel."""
    assert wandb_process.FINISH_SECONDS < wandb_run.FINISH_SECONDS <= 15
    # W&B's timeouts must end its process, and not the limit that kills it, which stays high.
    monkeypatch.delenv("BUSY_MACHINE")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    config = make_config(**{"tracking.wandb_mode": "online"})
    trackers = {}
    with silent_server() as silent, Server(falls_silent=True) as falls_silent:
        urls = {"falls_silent": falls_silent.url, "no": "http://127.0.0.1:1", "silent": silent}
        for name, url in urls.items():
            monkeypatch.setenv("WANDB_BASE_URL", url)
            (tmp_path / name).mkdir()
            trackers[name] = open_tracker(config, tmp_path / name, num_params=1)
        first = wait_for_wandb(trackers["falls_silent"], tmp_path / "falls_silent")
        # A log that waited for a server, or for W&B's process, would wait for ever.
        mirrors = [p for p in children() if "wandb_process.py" in " ".join(p.cmdline())]
        assert len(mirrors) == 3
        for mirror in mirrors:
            mirror.suspend()
        for tracker in trackers.values():
            log_steps(tracker, range(first, first + 30))
        for mirror in mirrors:
            mirror.resume()
        for tracker in trackers.values():
            tracker.finish({"status": "done"})
    output = capsys.readouterr().out
    assert output.count("logged offline") == 2
    assert output.count("did not upload everything") == 1
    assert "W&B failed" not in output  # No process had to be killed.
    for name in trackers:
        assert run_folder.read_json(tmp_path / name / "summary.json") == {"status": "done"}
        # All rows are on the disk, for `wandb sync`.
        rows = [row for _, row, _ in rows_of(wandb_folders(tmp_path / name)[-1])]
        assert rows == [row for _, row, _ in record_of(tmp_path / name)]
    _, errors = stopped_run.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in errors


@contextlib.contextmanager
def silent_server():
    """Yields the URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# --- The console ---------------------------------------------------------------------------------


def test_plain_lines_are_readable(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    lines = console.open_console(1000, 0, stream)
    lines.log(0, {"val/loss": 4.17439, "val/perplexity": 65.0})
    lines.log(50, {"train/loss": 2.5, "train/tokens_per_second": 1234567.8})
    clock[0] += 10
    lines.log(100, {"train/loss": float("nan"), "val/loss": 2.0})
    lines.log(1000, {"train/loss": 1.0})
    lines.note("one thing")
    lines.finish(
        {"val/loss": 2.0, "best/val/loss": 1.5, "seconds": 3.21, "status": "done"}, 0, None
    )
    assert stream.getvalue().splitlines() == [
        "step 0/1000  val loss 4.1744",
        "step 50/1000  train loss 2.5000  1,234,568 tokens/s  0:00:00 left",
        "step 100/1000  train loss nan  val loss 2.0000  0:01:30 left",
        "step 1000/1000  train loss 1.0000",
        "one thing",
        "done: val loss 2.0000  best 1.5000  3.2 s of training",
    ]


def test_plain_lines_are_flushed_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, RUN, tmp_path, "2", "60"],
        env={**os.environ, "WANDB_MODE": "disabled"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "step 0/2  train loss 4.0000\n"
    process.kill()
    process.wait()


def test_a_closed_pipe_does_not_stop_a_run(tmp_path):
    command = f"{sys.executable} {RUN} {tmp_path} 50 | head -n 1"
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    subprocess.run(["bash", "-c", command], env=environment, capture_output=True)
    assert len(list(run_folder.read_lines(tmp_path / "metrics.jsonl"))) == 50


def test_characters_that_a_stream_can_not_encode_are_escaped():
    raw = io.BytesIO()
    lines = console.open_console(10, 0, io.TextIOWrapper(raw, encoding="ascii"))
    lines.log_sample(5, "", "caf\xe9")
    assert raw.getvalue() == b"sample at step 5:\n  | caf\\xe9\n"


def test_samples_are_shown_compactly():
    shown = console.sample_lines(7, "\n", "x" * 500 + "\nb" * 50)
    assert shown[0] == "sample at step 7:"
    assert len(shown) == 2 + console.SAMPLE_LINES
    assert max(map(len, shown)) <= console.SAMPLE_WIDTH + 4
    assert shown[-1] == "  | ... 45 more lines"


@pytest.mark.slow
@given(st.text() | st.text(alphabet="\x1b[]\x07\x9b0m\r\n\u202e"))
def test_no_text_steers_the_terminal(text):
    for line in console.sample_lines(1, text, text):
        assert line.isprintable()


def screen_lines(written):
    """Returns the lines of what a terminal was sent, without the sequences that steer it."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).strip())


def on_terminal(command, environment):
    """Returns what a command writes to a terminal."""
    main, side = pty.openpty()
    process = subprocess.Popen(command, stdout=side, stderr=side, env=environment, cwd=ROOT)
    os.close(side)
    output = b""
    while True:
        try:
            output += os.read(main, 65536)
        except OSError:  # The other side is closed.
            break
    os.close(main)
    assert process.wait() == 0
    return output.decode()


@pytest.mark.long
def test_the_first_lines_say_what_trains_and_how_to_use_it(tmp_path):
    environment = {**os.environ, "WANDB_MODE": "disabled", "TERM": "xterm", "COLUMNS": "110"}
    command = [sys.executable, "main.py", "--config=experiments/bigram.py:smoke"]
    made = on_terminal([*command, f"--workdir={tmp_path}/a run"], environment)
    lines = screen_lines(made)
    assert lines[0] == "starting bigram:smoke"
    shown = r"bigram:smoke · 4,225 parameters · cpu, \w+ · 1,115,394 characters, 111,539 of them .*"
    assert any(re.fullmatch(shown, line.strip()) for line in lines)
    assert (
        lines[-1].strip()
        == f"next: python generate.py --workdir='{tmp_path}/a run' --prompt=ROMEO:"
    )


@pytest.mark.long
def test_the_command_to_use_a_model_has_no_prompt_that_it_may_not_know(tmp_path):
    (tmp_path / "dna.txt").write_text("TGCA" * 30)
    environment = {**os.environ, "WANDB_MODE": "disabled", "TERM": "xterm", "COLUMNS": "110"}
    command = [sys.executable, "main.py", "--config=experiments/bigram.py:smoke"]
    command += ["--config.data.name=text", f"--config.data.path={tmp_path}/dna.txt"]
    lines = screen_lines(on_terminal([*command, f"--workdir={tmp_path}/run"], environment))
    assert lines[-1].strip() == f"next: python generate.py --workdir={tmp_path}/run"


@pytest.mark.slow
def test_the_progress_bar_on_a_terminal(tmp_path):
    environment = {**os.environ, "WANDB_MODE": "disabled", "TERM": "xterm", "COLUMNS": "100"}
    raw = on_terminal([sys.executable, RUN, tmp_path, "21", "0.05"], environment)
    lines = screen_lines(raw)
    assert any(re.search(r"━+ +\d+/21 train loss \d\.\d{4} ", line) for line in lines)
    assert re.search(r"━ 20/21 .*\d:\d\d:\d\d", "\n".join(lines))
    # Samples stay above the bar, once each; the cursor that the bar hides is shown again.
    assert [line for line in lines if "sample 1" in line] == ["  | KING: sample 10"]
    assert lines[-1] == "done"
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (50, "2000/2000 train loss 4.0000 "),
        (70, "2000/2000 train loss 4.0000  val loss 3.0000 "),
        (110, "2000/2000 train loss 4.0000  val loss 3.0000  1,234,567 tokens/s "),
    ],
)
def test_a_narrow_terminal_shows_the_step_the_loss_and_the_time_left(columns, shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    bar = console.open_console(2000, 0, stream)
    metrics = {"train/loss": 4.0, "val/loss": 3.0, "train/tokens_per_second": 1234567}
    bar.log(2000, metrics)
    bar.finish({}, 0, None)
    (*_, last, _) = screen_lines(stream.getvalue())
    assert re.fullmatch(rf"━+ {shown}\d:\d\d:\d\d *", last)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_that_can_not_move_its_cursor_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert type(console.open_console(10, 0, Terminal())) is console.PlainLines
    monkeypatch.setenv("TERM", "xterm")
    bar = console.open_console(10, 4, Terminal())
    assert type(bar) is console.ProgressBar
    bar.finish({}, 0, None)
