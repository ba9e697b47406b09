"""Models as W&B artifacts, by the real client, against a server on the loopback interface."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import harness
import run_folder
from checkpoints.manager import Checkpoints
from experiments import default
from runtime.errors import UserError
from tests.command import PATIENCE, ROOT, assert_refused
from tests.forked import run
from tests.wandb_server import Server
from tracking import open_tracker, wandb_run
from tracking.artifact import artifact_of, local_folder
from tracking.sink import Model
from training import run_start

KEY = "k" * 40
TRAIN = ("main.py", "--config=experiments/bigram.py:smoke")


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory, server):
    """The environment of a user with an account on the server."""
    folder = str(tmp_path_factory.mktemp("home"))
    where = {"WANDB_BASE_URL": server.url, "WANDB_ERROR_REPORTING": "false"}
    # A key from a file has a line end, and the client would not start with the other.
    where |= {"WANDB_API_KEY": f"{KEY}\n", "WANDB_CONSOLE": "on"}
    return {**where, "HOME": folder, "XDG_CACHE_HOME": folder, "WANDB_ENTITY": "entity"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, home):
    """A run whose best model was logged, and what it printed."""
    workdir = tmp_path_factory.mktemp("trained") / "a run=1"
    result = run(
        *TRAIN,
        "--config.tracking.log_model=best",
        "--config.tracking.wandb_mode=online",
        f"--workdir={workdir}",
        **home,
    )
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def model_of_trained(server):
    """Returns the model of `trained`; the server has those of other tests, too."""
    models = server.artifacts.of_type("model")
    (version,) = [model for model in models if model.collection == "a_run_1"]
    return version


def files_of(server, version):
    """Returns the content of a version's files by name."""
    path = server.artifacts.path
    return {name: server.uploads[path(version, f"files/{name}")] for name in version.files}


@pytest.mark.long
def test_the_artifact_is_the_run_folder_with_one_checkpoint(server, trained):
    workdir, printed = trained
    version = model_of_trained(server)
    assert version.aliases == {"best", "latest"}
    summary = run_folder.read_json(workdir / "summary.json")
    best = Checkpoints(workdir).best_step()
    metadata = {
        "step": best,
        "val/loss": summary["best/val/loss"],
        "num_params": summary["num_params"],
    }
    assert json.loads(version.sent["metadata"]) == metadata
    files = files_of(server, version)
    environment = json.loads(files.pop("environment.json"))
    there = run_folder.read_json(workdir / "environment.json")
    # Without what was typed: it may name folders.
    assert environment == {k: v for k, v in there.items() if k not in ("command", "started")}
    names = ["config.json", "summary.json", "tokenizer.json"]
    inside = (workdir / f"checkpoints/{best}").iterdir()
    assert sorted(files) == sorted([*names, *(f"checkpoints/{best}/{p.name}" for p in inside)])
    assert all(content == (workdir / name).read_bytes() for name, content in files.items())
    assert f"uploading the model of step {best} to W&B, 300 s at most\n" in printed
    assert "W&B has the model: --workdir=wandb:entity/project/a_run_1:v0\n" in printed


@pytest.mark.long
def test_a_stopped_run_and_an_offline_one_log_their_models(server, home, tmp_path):
    """One run is both: `wandb sync` uploads what it logged offline, with no run folder left."""
    command = [sys.executable, *TRAIN, f"--workdir={tmp_path}/stopped"]
    keys = ["log_model=final", "wandb_mode=offline"]
    more = ["--config.train.num_steps=1000000", "--config.eval.every_steps=1000000"]
    process = subprocess.Popen(
        [*command, *(f"--config.tracking.{key}" for key in keys), *more],
        cwd=ROOT,
        env={**os.environ, **home},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (line := process.stdout.readline()).startswith("step 1000/"):
        assert line, "it has ended"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    (step,) = Checkpoints(tmp_path / "stopped").steps()
    (tmp_path / "stopped/checkpoints").rename(tmp_path / "gone")
    (folder,) = tmp_path.glob("stopped/wandb/offline-run-*")
    known = {version.id for version in server.artifacts.versions}
    wandb = Path(sys.executable).with_name("wandb")
    # W&B's own command takes neither of the values that this harness mends.
    environment = {**os.environ, **home, "WANDB_API_KEY": KEY, "WANDB_CONSOLE": "off"}
    subprocess.run([wandb, "sync", folder], cwd=tmp_path, env=environment, check=True)
    models = server.artifacts.of_type("model")
    (version,) = [version for version in models if version.id not in known]
    # Not the best: it was never evaluated.
    assert (version.collection, version.aliases) == ("stopped", {"latest"})
    assert json.loads(version.sent["metadata"])["step"] == step
    content = files_of(server, version)[f"checkpoints/{step}/params.safetensors"]
    assert content == (tmp_path / f"gone/{step}/params.safetensors").read_bytes()


class SilentOnModels(Server):
    """Server that does not answer when a model is logged."""

    def query_result(self, operation, variables):
        """Returns the content of a response."""
        if operation == "CreateArtifact":
            self.closing.wait()
        return super().query_result(operation, variables)


def log_model(workdir, mode, files=("config.json", "tokenizer.json")):
    """Finishes a run without a model of its own, whose folder has `files` and a checkpoint."""
    (workdir / "checkpoints/3").mkdir(parents=True)
    for name in (*files, "checkpoints/3/params.safetensors"):
        (workdir / name).write_text("{}")
    config = default.get_config()
    config.tracking.wandb_mode = mode
    tracker = open_tracker(config, workdir, num_params=1)
    tracker.log(3, {"train/loss": 1.0})
    return tracker.finish({"status": "done"}, 0, Model(workdir / "checkpoints/3", 3, 1.0, ["best"]))


def notes_about(model_or_upload, printed):
    return [line for line in printed.splitlines() if model_or_upload in line]


@pytest.mark.slow
def test_a_model_that_can_not_be_read_is_one_note(tmp_path, capsys):
    assert log_model(tmp_path, "offline", files=["config.json"])
    (note,) = notes_about("did not take the model", capsys.readouterr().out)
    assert "tokenizer.json" in note
    assert run_folder.read_json(tmp_path / "summary.json") == {"status": "done"}
    # The rows are there, and the run is to be uploaded.
    assert (tmp_path / "wandb.json").exists()


@pytest.mark.long
def test_a_server_that_does_not_take_the_model_costs_a_bounded_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(wandb_run, "MODEL_SECONDS", 1)
    # W&B's timeouts must end its process, and not the limit that kills it, which stays high.
    monkeypatch.delenv("BUSY_MACHINE")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with SilentOnModels() as silent:
        monkeypatch.setenv("WANDB_BASE_URL", silent.url)
        assert log_model(tmp_path / "a run", "online")
    printed = capsys.readouterr().out
    assert notes_about("did not take the model, the run folder has it: ", printed)
    (note,) = notes_about("did not upload everything", printed)
    assert run_folder.read_json(tmp_path / "a run/summary.json") == {"status": "done"}
    # The command in the note uploads the rest, without the model.
    upload = re.search("`wandb (sync .*)`", note)[1]
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        subprocess.run([Path(sys.executable).with_name("wandb"), *shlex.split(upload)], check=True)
    assert [row["step"] for row in server.history.values()] == [3]


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("gpt2 learning_rate=0.003 seed=1", "gpt2_learning_rate_0.003_seed_1"),
        ("a/b:c", "a_b_c"),
        ("段階", "__"),
        ("x" * 300, "x" * 128),
    ],
)
def test_a_name_is_one_that_wandb_accepts(name, accepted, tmp_path):
    model = Model(tmp_path / "checkpoints/1", 1, None, [])
    assert artifact_of(model, tmp_path, name, {})["name"] == accepted


@pytest.mark.long
def test_a_model_in_wandb_opens_like_its_run_folder(trained, home, tmp_path):
    """In another folder: the text, the scores and the export are those of the run."""
    workdir, _ = trained
    there = "--workdir=wandb:entity/project/a_run_1:best"
    cache = {**home, "XDG_CACHE_HOME": str(tmp_path)}
    generated = run("generate.py", there, "--prompt=KING:", "--num_tokens=30", "--seed=1", **cache)
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout == harness.open_run(workdir).generate("KING:", 30, seed=1) + "\n"
    (folder,) = (tmp_path / "transformers-from-scratch/models").iterdir()
    assert f"wandb:entity/project/a_run_1:best: downloaded to {folder}\n" in generated.stderr
    evaluated = run("evaluate.py", "--workdir=wandb:entity/project/a_run_1:v0", **cache)
    assert "downloaded" not in evaluated.stderr
    loss = run_folder.read_json(workdir / "summary.json")["best/val/loss"]
    assert json.loads(evaluated.stdout)["val/loss"] == loss
    exported = run("export.py", there, f"--output={tmp_path}/out", **cache)
    assert_refused(exported, "bigram")  # A model that transformers does not have.


@pytest.fixture
def account(home, monkeypatch, tmp_path):
    """The account on the server, for calls in this process; an empty cache."""
    for name, value in {**home, "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)


def refused(address):
    with pytest.raises(UserError) as error:
        local_folder(address)
    message = str(error.value)
    assert message.startswith(f"--workdir={address}") and "\n" not in message
    return message


@pytest.mark.parametrize(
    "address", ["wandb:", "wandb:name:best", "wandb:a/b/c", "wandb:a/b/c/d:best", "wandb:a/b/:v0"]
)
def test_an_address_of_another_form_is_one_line(address):
    assert "expected wandb:ENTITY/PROJECT/NAME:ALIAS, the alias best, latest" in refused(address)


def test_a_folder_is_itself(tmp_path):
    assert local_folder(tmp_path) == tmp_path == local_folder(str(tmp_path))


@pytest.mark.long
def test_a_model_that_is_not_there_is_one_line(server, trained, account, tmp_path):
    for address in ("wandb:entity/project/a_run_1:v7", "wandb:entity/project/none:best"):
        assert "W&B shows you no such model" in refused(address)
    table = server.artifacts.of_type("run_table")[-1]
    address = f"wandb:entity/project/{table.collection}:v{table.index}"
    assert "is not the model of a run (it has no config.json)" in refused(address)
    # A file that the server has lost, or another has changed.
    version = model_of_trained(server)
    path = server.artifacts.path(version, "files/config.json")
    whole = server.uploads.pop(path)
    assert "W&B did not give the model (" in refused("wandb:entity/project/a_run_1:best")
    server.uploads[path] = whole + b" "
    assert "Digest mismatch" in refused("wandb:entity/project/a_run_1:best")
    server.uploads[path] = whole
    assert local_folder("wandb:entity/project/a_run_1:best").parent.parent.parent == tmp_path
    assert len(list((tmp_path / "transformers-from-scratch/models").iterdir())) == 1


@pytest.mark.long
def test_no_key_and_no_server_are_one_line(home):
    flag = "--workdir=wandb:entity/project/name:best"
    no_key = run("evaluate.py", flag, **{**home, "WANDB_API_KEY": ""})
    assert_refused(no_key, "No API key configured")
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_HTTP_TIMEOUT": "2"}
    nobody = run("evaluate.py", flag, **{**home, **nowhere})
    assert_refused(nobody, "W&B did not give the model (no answer from the server within 2 s)")


def test_nothing_is_trained_into_a_model_in_wandb():
    with pytest.raises(UserError, match="names a model in W&B, which can only be read"):
        run_start.check_folder(default.get_config(), Path("wandb:entity/project/name:best"))
