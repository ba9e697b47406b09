"""The W&B workspace of the stages: it draws metrics that runs log, and is saved on a server."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_folder
from runtime import errors
from tests.command import ROOT, assert_refused, run
from tests.wandb_server import Server
from tracking import workspace

KEY = "k" * 40
NOWHERE = "http://127.0.0.1:9"


def command(*flags, **environment):
    return run("-m", "tracking.workspace", *flags, **environment)


def online(server):
    return {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}


# Loads a workspace as W&B's library does, and saves it again.
RELOAD = """
import sys
import wandb_workspaces.workspaces as ws
again = ws.Workspace.from_url(sys.argv[1])
print([group.name for group in again.runset_settings.groupby])
again.save()
"""


def view(spec):
    """Returns a saved workspace as the server keeps it."""
    return {"node": {"id": "old", "displayName": "n", "spec": spec}}


def sent_to(server):
    """Returns the variables of the request that saves a workspace."""
    (sent,) = [variables for name, variables in server.operations if name == "UpsertView2"]
    return sent


@pytest.fixture(scope="module")
def saved():
    """The output of the command, the name it looked up, and the workspace it sent to a server."""
    with Server() as server:
        result = command("--project=mine", "--name=n", **online(server))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    (asked,) = [variables for name, variables in server.operations if name == "View"]
    return result.stdout, asked["viewName"], sent_to(server)


@pytest.fixture(scope="module")
def spec(saved):
    """The workspace that the server was sent."""
    return json.loads(saved[2]["spec"])


def panels(spec):
    sections = spec["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def table_of(config):
    """Returns the summary key of a table panel."""
    source = config["panel2Config"]["exp"]["fromOp"]
    assert source["inputs"]["obj"]["fromOp"]["name"] == "run-summary"
    return source["inputs"]["key"]["val"]


def named(spec):
    """Returns the keys that a spec names: those of runs' histories, those of their summaries."""
    history, summary = set(), set()
    for panel in panels(spec):
        config = panel["config"]
        match panel["viewType"]:
            case "Run History Line Plot":
                history |= {config["xAxis"], *config["metrics"]}
            case "Bar Chart":
                summary |= set(config["metrics"])
            case "Scatter Plot":
                summary |= {config["xAxis"], config["yAxis"]}
            case "Weave":
                summary.add(table_of(config))
            case other:
                raise AssertionError(f"unknown panel: {other}")
    runs = spec["section"]["runSets"][0]
    summary |= set(runs["runFeed"]["columnOrder"]) - {"run:displayName"}
    for key in runs["sort"]["keys"]:
        assert key["key"]["section"] == "summary"
        summary.add(key["key"]["name"])
    return history, {key.removeprefix("summary:") for key in summary}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder, its W&B records, and its W&B summary."""
    folder = tmp_path_factory.mktemp("run") / "run"
    flags = ("--config=experiments/bigram.py:smoke", f"--workdir={folder}")
    result = run("main.py", *flags, WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    (offline,) = folder.glob("wandb/offline-run-*")
    inspect = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json"]
    lines = subprocess.check_output([*inspect, offline], text=True).splitlines()
    summary = json.loads(subprocess.check_output([*inspect, "--summary", offline], text=True))
    return folder, [json.loads(line) for line in lines], summary["summary"]


def test_every_key_of_the_workspace_is_logged(trained, spec):
    """In the record and in W&B; a renamed metric fails here."""
    folder, records, summarised = trained
    history, summary = named(spec)
    assert len(history) == 9 and len(summary) == 7
    recorded = {key for line in run_folder.read_lines(folder / "metrics.jsonl") for key in line}
    assert history <= recorded
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert history <= {key for row in rows for key in row}
    # W&B's summary has the parts of a table: samples._type and so on.
    assert summary <= {key.partition(".")[0] for key in summarised} | set(summarised)
    assert summary - {"samples"} <= run_folder.read_json(folder / "summary.json").keys()
    # A line needs its x-axis metric in the same row.
    for panel in panels(spec):
        if x := panel["config"].get("xAxis", "").removeprefix("summary:"):
            (y,) = panel["config"].get("metrics", ["val/loss"])
            assert x == "num_params" or all(x in row for row in rows if y in row)


def test_runs_are_grouped_by_the_group_that_a_run_sends(trained, spec):
    folder, records, _ = trained
    assert spec["section"]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    grouped = [panel["config"] for panel in panels(spec) if "metrics" in panel["config"]]
    assert all(config["groupBy"] == "group" and config["aggregate"] for config in grouped)
    (started,) = [record["run"] for record in records if record["type"] == "run"]
    config = run_folder.read_json(folder / "config.json")
    assert started["run_group"] == config["model"]["name"] == "bigram"


def test_the_loss_is_drawn_against_each_cost_of_training(spec):
    losses = [p["config"] for p in panels(spec) if p["config"].get("metrics") == ["val/loss"]]
    # W&B's own row number is called _step; ours is a metric like any other.
    assert [c["xAxis"] for c in losses] == ["tokens_seen", "seconds", "train_flops", "step"]
    assert all(c["xLogScale"] and c["smoothingType"] == "none" for c in losses)
    assert spec["section"]["settings"]["smoothingActive"] is False


def test_wandb_reads_the_spec_as_intended(saved, spec):
    """W&B's library loads the workspace, and saves the same one."""
    with Server() as server:
        server.views = [view(saved[2]["spec"])]
        result = run("-c", RELOAD, f"{server.url}/entity/mine?nw={saved[1]}", **online(server))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "['Group']"
    assert named(json.loads(sent_to(server)["spec"])) == named(spec)


def test_another_name_is_another_workspace():
    names = ["Stages", "stages", "my stages", "Этапы", "段階"]
    kept = {workspace.view_name(name) for name in names}
    assert len(kept) == len(names)
    assert all(re.fullmatch("nw-[0-9a-f]{11}-v", name) for name in kept)
    assert workspace.view_name("Stages") == workspace.view_name("Stages")


def test_a_dry_run_needs_no_server_and_no_key(tmp_path):
    result = command(
        "--dry_run",
        "--project=mine",
        WANDB_BASE_URL=NOWHERE,
        WANDB_API_KEY="",
        HOME=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "<your entity>/mine" in result.stdout
    for metric in ("tokens_seen", "seconds", "train_flops", "step"):
        assert f"lines: val/loss against {metric}, logarithmic, grouped by" in result.stdout
    for metric, _ in workspace.TRAINING:
        assert f"lines: {metric} against step, grouped by stage" in result.stdout
    for words in ("bars: val/bits_per_byte", "table: samples", "points: val/loss against num_par"):
        assert words in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_flags_the_project_is_the_one_that_runs_go_to():
    result = command("--dry_run", WANDB_BASE_URL=NOWHERE, WANDB_API_KEY="")
    assert "in <your entity>/transformers-from-scratch\n" in result.stdout


def test_the_workspace_is_saved_and_replaced(saved):
    output, asked, first = saved
    with Server() as server:
        server.views = [view(first["spec"])]
        result = command("--project=mine", "--name=n", **online(server))
    assert result.returncode == 0, result.stderr
    second = sent_to(server)
    name = workspace.view_name("n")
    # W&B's library looks up the name that it saves.
    assert asked == first["name"] == second["name"] == name
    address = re.escape(f"/entity/mine?nw={name[3:-2]}\n")
    for text in (output, result.stdout):
        assert re.match(rf"workspace: http://\S+{address}", text)
    assert "It is new" in output
    assert "It replaced the earlier workspace 'n'" in result.stdout
    assert first["type"] == second["type"] == "project-view"
    assert (first["entityName"], first["projectName"]) == ("entity", "mine")
    assert first["displayName"] == "n"
    assert ("id" in first, second["id"]) == (False, "old")
    assert without_ids(first["spec"]) == without_ids(second["spec"])


def without_ids(spec):
    """Returns a spec without the random ids that W&B's library gives panels."""

    def cleaned(part):
        if isinstance(part, dict):
            return {key: cleaned(value) for key, value in part.items() if key != "__id__"}
        return [cleaned(one) for one in part] if isinstance(part, list) else part

    return cleaned(json.loads(spec))


def test_the_entity_flag():
    with Server() as server:
        result = command("--entity=team", "--project=mine", **online(server))
    assert result.returncode == 0, result.stderr
    assert sent_to(server)["entityName"] == "team"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("", "mine", "a 😀"), "--name=a 😀: expected a name that W&B accepts, without emoji and"),
        (("", "mine", ""), "--name= is empty"),
        (("", "me/mine", "n"), "--project=me/mine: expected a project's name without a slash"),
        (("", "", "n"), "--project=: expected a project's name"),
    ],
)
def test_names_that_wandb_does_not_accept_are_refused(flags, words):
    with pytest.raises(errors.UserError, match=re.escape(words)):
        workspace.build(*flags)


@pytest.mark.slow
def test_errors_are_one_line():
    assert_refused(command("--projekt=x"), "projekt")
    no_key = command(WANDB_API_KEY="", WANDB_BASE_URL=NOWHERE, HOME="/nonexistent")
    assert_refused(no_key, "No API key configured")
    assert_refused(command(WANDB_API_KEY="short", WANDB_BASE_URL=NOWHERE), "40+ characters")
    with Server() as server:
        server.has_project = False
        assert_refused(command("--project=gone", **online(server)), "no project entity/gone")


def test_a_missing_key_is_not_asked_for_on_a_terminal():
    terminal, inside = pty.openpty()
    process = subprocess.run(
        [sys.executable, "-m", "tracking.workspace"],
        cwd=ROOT,
        env={**os.environ, "WANDB_BASE_URL": NOWHERE, "WANDB_API_KEY": "", "HOME": "/nonexistent"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        timeout=60,
    )
    assert process.returncode == 2
    assert os.read(terminal, 65536).startswith(b"error: W&B did not accept the workspace (Usage")


class SilentAtTheEnd(Server):
    """Server that answers every query but the one that saves the workspace."""

    def answer(self, path, body):
        """Returns the content of a response."""
        if "UpsertView2" in body.get("query", ""):
            self.closing.wait()
        return super().answer(path, body)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_reported_soon():
    soon = {"WANDB_HTTP_TIMEOUT": "2", "WANDB_API_KEY": KEY}
    words = "W&B did not accept the workspace (no answer from the server within 2 s)"
    started = time.monotonic()
    assert_refused(command(WANDB_BASE_URL=NOWHERE, **soon), words)
    with SilentAtTheEnd() as server:
        assert_refused(command(WANDB_BASE_URL=server.url, **soon), words)
    assert time.monotonic() - started < 30
