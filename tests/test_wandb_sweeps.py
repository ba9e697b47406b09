"""Tests of sweeps with W&B's real client: `wandb sweep`, `wandb agent` and `wandb sync`."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import run_folder
from experiments.default import get_config
from sweep_engine.hyperband import Hyperband
from tests.command import OF_A_COMMAND, ROOT, wait_until
from tests.wandb_sweep_server import SweepServer

WHERE = ("WANDB_PROJECT", "WANDB_ENTITY")
BIN = Path(sys.executable).parent
ONLINE = ["--config.checkpoint.resume=true", "--config.tracking.wandb_mode=online"]


def content_of(*flags, **parameters):
    return {
        "program": str(ROOT / "main.py"),
        "method": "grid",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": {
            key.replace("__", "."): {"values": values} for key, values in parameters.items()
        },
        "command": ["${env}", "${interpreter}", "${program}", "${args}", *ONLINE, *flags],
    }


def environment(server, **more):
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "k" * 40,
        "WANDB_ENTITY": "entity",
        "WANDB_PROJECT": "project",
        "WANDB_ERROR_REPORTING": "false",
        # Rows are sent as often as the tests look at them; the default is 15 seconds.
        "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
        **more,
    }


def without_place(variables):
    """Returns the variables without those that name a project."""
    return {name: value for name, value in variables.items() if name not in WHERE}


def wandb(server, folder, *words, **more):
    result = subprocess.run(
        [BIN / "wandb", *map(str, words)],
        cwd=folder,
        env=environment(server, **more),
        capture_output=True,
        text=True,
        timeout=OF_A_COMMAND,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def create(server, folder, content):
    """Creates a sweep, in a folder with a link to the experiments; returns its address."""
    (folder / "experiments").symlink_to(ROOT / "experiments")
    return server.create(yaml.safe_dump(content))


def folder_of(folder, run_id):
    return folder / "runs/sweep-sweep001" / run_id


def record_of(folder):
    """Returns the lines of a run's record, in the order in which they were logged."""
    lines = [*run_folder.read_lines(folder / "metrics.jsonl")]
    lines += [{"step": x["step"]} for x in run_folder.read_lines(folder / "samples.jsonl")]
    return sorted(lines, key=lambda line: line["step"])


def history_of(received):
    """Returns the rows that arrived, without W&B's own columns."""
    return [
        {
            key: value
            for key, value in received.rows[at].items()
            if key[0] != "_" and key != "samples"
        }
        for at in sorted(received.rows)
    ]


def check_history(received, folder):
    assert not received.repeated
    assert sorted(received.rows) == list(range(len(received.rows)))
    assert history_of(received) == record_of(folder)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Yields the server and the folder of a sweep of two stages and two seeds by two agents."""
    folder = tmp_path_factory.mktemp("grid")
    with SweepServer() as server:
        server.num_agents = 2
        experiments = [f"experiments/{name}.py:smoke" for name in ("bigram", "gpt2")]
        content = content_of(config=experiments, config__seed=[3, 4])
        (folder / "experiments").symlink_to(ROOT / "experiments")
        (folder / "sweep.yaml").write_text(yaml.safe_dump(content))
        sweep = "entity/project/sweep001"
        assert f"wandb agent {sweep}" in wandb(server, folder, "sweep", "sweep.yaml")
        agents = [
            subprocess.Popen(
                [BIN / "wandb", "agent", sweep],
                cwd=folder,
                env=environment(server),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2)
        ]
        outputs = [agent.communicate(timeout=OF_A_COMMAND)[0] for agent in agents]
        assert [agent.returncode for agent in agents] == [0, 0], outputs
        yield server, folder


@pytest.mark.long
def test_agents_share_the_grid(grid):
    server, _ = grid
    points = [tuple(point.values()) for point in server.assigned.values()]
    assert len(points) == len(set(points)) == 4
    assert sorted(run for runs in server.by_agent.values() for run in runs) == sorted(
        server.assigned
    )
    assert all(server.by_agent[agent] for agent in ("agent1", "agent2"))


@pytest.mark.long
def test_every_row_arrives_exactly_once(grid):
    server, folder = grid
    for run_id in server.assigned:
        received = server.received[run_id]
        assert len(received.rows) == 8  # Five lines of metrics, three samples.
        check_history(received, folder_of(folder, run_id))
        assert (received.complete, received.exit_code) == (True, 0)


@pytest.mark.long
def test_swept_values_take_precedence_and_are_sent_once(grid):
    server, folder = grid
    for run_id, point in server.assigned.items():
        config = server.received[run_id].config
        for name, value in point.items():
            assert config[name] == value
        # Flat names alone: no value is there a second time in a nested config.
        assert not any(isinstance(value, dict) for value in config.values())
        bare = [key.removeprefix("config.") for key in config]
        assert len(bare) == len(set(bare))
        kept = run_folder.read_json(folder_of(folder, run_id) / "config.json")
        assert config["config.seed"] == kept["seed"] == point["config.seed"]
        sweep = run_folder.read_json(folder_of(folder, run_id) / "sweep.json")
        assert sweep == {"sweep_id": "sweep001", "parameters": point}


@pytest.mark.long
def test_runs_are_filed_by_experiment_and_named_by_what_differs(grid):
    server, _ = grid
    for run_id, point in server.assigned.items():
        received = server.received[run_id]
        stage = re.search(r"/(\w+)\.py", point["config"])[1]
        assert received.first("groupName") == f"{stage}:smoke"
        assert received.first("jobType") == "sweep"
        assert received.first("sweep") == "sweep001"
        assert received.first("displayName") == f"{stage}:smoke seed={point['config.seed']}"


@pytest.mark.long
def test_the_samples_are_uploaded(grid):
    server, folder = grid
    for run_id in server.assigned:
        tables = [
            json.loads(content)
            for path, content in server.uploads.items()
            if path.startswith(run_id) and path.endswith(".table.json")
        ]
        samples = list(run_folder.read_lines(folder_of(folder, run_id) / "samples.jsonl"))
        expected = [[x["step"], x["prompt"], x["text"]] for x in samples]
        assert max((table["data"] for table in tables), key=len) == expected


@pytest.mark.long
def test_all_routes_lead_to_one_project(tmp_path):
    """A run and an agent's run, with no variable set; below, uploaded runs of a sweep."""
    shipped = yaml.safe_load((ROOT / "sweeps/depth.yaml").read_text())
    small = content_of(config=["experiments/bigram.py:smoke"], config__seed=[1])
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**small, "project": shipped["project"]}))
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    once = ["--config=experiments/bigram.py:smoke", "--config.tracking.wandb_mode=online"]
    commands = [
        [sys.executable, ROOT / "main.py", *once, "--workdir=run"],
        [BIN / "wandb", "sweep", "sweep.yaml"],
        [BIN / "wandb", "agent", f"{shipped['project']}/sweep001"],
    ]
    with SweepServer() as server:
        nowhere = without_place(environment(server))
        for command in commands:
            done = subprocess.run(
                command, cwd=tmp_path, env=nowhere, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
        projects = [received.first("project") for received in server.received.values()]
        assert projects == [get_config().tracking.wandb_project] * 2


# A grid and a Bayesian search; the others are grids, too.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["compare_stages", "tune_stages"])
def test_wandb_accepts_the_sweep_files_unchanged(name, tmp_path):
    path = ROOT / f"sweeps/{name}.yaml"
    content = yaml.safe_load(path.read_text())
    with SweepServer() as server:
        told = wandb(server, ROOT, "sweep", path, WANDB_DIR=str(tmp_path))
        assert "wandb agent" in told
        kept = yaml.safe_load(server.sweep_text)
        # The client adds the implied distribution.
        for parameter in kept["parameters"].values():
            if "values" in parameter:
                parameter.pop("distribution", None)
        assert kept == content


@pytest.mark.long
def test_a_killed_agent_and_run_are_resumed(tmp_path):
    flags = ["--config.train.num_steps=3000", "--config.eval.every_steps=500"]
    flags += ["--config.sample.every_steps=0", "--config.train.log_every_steps=250"]
    with SweepServer() as server:
        content = content_of(*flags, config=["experiments/gpt2.py:smoke"], config__seed=[1])
        sweep = create(server, tmp_path, content)
        agent = subprocess.Popen(
            [BIN / "wandb", "agent", sweep],
            cwd=tmp_path,
            env=environment(server),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        run = folder_of(tmp_path, "run001")
        wait_until(lambda: list((run / "checkpoints").glob("[1-9]*00")))
        # Preemption kills the agent and the training that it started.
        training = trainings(run)
        agent.kill()
        agent.wait()
        for pid in training:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.received["run001"].complete)
        assert server.received["run001"].exit_code == 1
        server.received["run001"].complete = False
        assert server.reassign() == ["run001"]
        wandb(server, tmp_path, "agent", sweep)
        received = server.received["run001"]
        assert (received.complete, received.exit_code) == (True, 0)
        assert sorted(received.rows) == list(range(len(received.rows)))
        assert history_of(received) == record_of(run)
        steps = [line["step"] for line in run_folder.read_lines(run / "metrics.jsonl")]
        assert steps == list(range(0, 3001, 250))


@pytest.mark.long
def test_hyperband_stops_runs_through_the_agent(tmp_path):
    """The server applies W&B's rule to the values that arrived."""
    flags = ["--config.eval.every_steps=500", "--config.sample.every_steps=0"]
    flags += ["--config.train.log_every_steps=500", "--config.train.num_steps=1000000000"]
    hyperband = Hyperband(min_iter=3)
    with SweepServer() as server:

        def stop_when(run_id, received):
            losses = [row["val/loss"] for row in received.rows.values() if "val/loss" in row]
            return bool(hyperband.runs_to_stop({"better": [1.0] * 1000, run_id: losses}, [run_id]))

        server.stop_when = stop_when
        content = content_of(*flags, config=["experiments/bigram.py:smoke"], config__seed=[1, 2])
        sweep = create(server, tmp_path, content)
        wandb(server, tmp_path, "agent", sweep)
        assert list(server.assigned) == ["run001", "run002"]
        for run_id in server.assigned:
            assert server.received[run_id].complete
            summary = run_folder.read_json(folder_of(tmp_path, run_id) / "summary.json")
            assert summary["status"] == "interrupted"
            assert summary["step"] < 1_000_000_000


@pytest.mark.long
@pytest.mark.parametrize("trouble", ["fail_for", "hang_for"])
def test_a_server_that_fails_gets_everything_afterwards(tmp_path, trouble):
    """It answers with status 500, or not at all, for four seconds during the run."""
    flags = ["--config.train.num_steps=60000", "--config.eval.every_steps=10000"]
    flags += ["--config.sample.every_steps=0", "--config.train.log_every_steps=1000"]
    with SweepServer() as server:
        content = content_of(*flags, config=["experiments/bigram.py:smoke"], config__seed=[1])
        sweep = create(server, tmp_path, content)
        agent = subprocess.Popen(
            [BIN / "wandb", "agent", sweep],
            cwd=tmp_path,
            env=environment(server),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_until(lambda: server.received["run001"].rows)
        getattr(server, trouble)(4)
        output, _ = agent.communicate(timeout=OF_A_COMMAND)
        assert agent.returncode == 0, output
        received, run = server.received["run001"], folder_of(tmp_path, "run001")
        if not received.complete:
            # The upload exceeded its time limit, and the message says how to finish it.
            (command,) = re.findall(r"wandb (sync \S+)", output)
            wandb(server, tmp_path, *command.split())
        rows = history_of(received)
        assert [row["step"] for row in rows] == [line["step"] for line in record_of(run)]
        assert run_folder.read_json(run / "summary.json")["status"] == "done"


@pytest.mark.long
def test_a_sweep_without_a_server_is_uploaded_as_one(tmp_path):
    """And to the project of all others, with no variable set."""
    folder = tmp_path / "sweep"
    swept = subprocess.run(
        [
            *(sys.executable, "sweeps/run.py", "sweeps/compare_stages.yaml"),
            *(f"--workdir={folder}", "--count=2", "--preset=smoke", "--sweep_id=sweep001"),
        ],
        cwd=ROOT,
        env=without_place(os.environ),
        capture_output=True,
        text=True,
    )
    assert swept.returncode == 0, swept.stdout
    with SweepServer() as server:
        subprocess.run(
            [BIN / "wandb", "sync", *folder.glob("*/wandb/offline-run-*")],
            cwd=tmp_path,
            env=without_place(environment(server)),
            check=True,
        )
        assert len(server.received) == 2
        for received in server.received.values():
            assert received.first("sweep") == "sweep001"
            assert received.first("project") == get_config().tracking.wandb_project
            (run,) = [
                path.parent
                for path in folder.glob("*/wandb.json")
                if run_folder.read_json(path)["id"] == received.first("name")
            ]
            check_history(received, run)


def trainings(run):
    """Returns the ids of the processes of main.py that an agent has started for a run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            variables = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            folder = (entry / "cwd").readlink()
        except OSError:
            continue
        if "WANDB_RUN_ID=" + run.name in variables and run.is_relative_to(folder):
            found += [int(entry.name)] if any(word.endswith("main.py") for word in words) else []
    assert found
    return found
