"""The W&B workspace of the stages: what it draws is what runs log, and a server gets it whole."""

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


def spec_of(built):
    """What a server is sent."""
    return json.loads(built._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def panels(spec):
    sections = spec["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def table_of(config):
    """The key of the summary that a panel with a table picks."""
    source = config["panel2Config"]["exp"]["fromOp"]
    assert source["inputs"]["obj"]["fromOp"]["name"] == "run-summary"
    return source["inputs"]["key"]["val"]


def named(spec):
    """The keys that a spec names: in the history of runs, and in their summaries."""
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
                raise AssertionError(f"which keys does a {other} name?")
    runs = spec["section"]["runSets"][0]
    summary |= set(runs["runFeed"]["columnOrder"]) - {"run:displayName"}
    for key in runs["sort"]["keys"]:
        assert key["key"]["section"] == "summary"
        summary.add(key["key"]["name"])
    return history, {key.removeprefix("summary:") for key in summary}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder, and what W&B holds of it: records by type, and the summary."""
    folder = tmp_path_factory.mktemp("run") / "run"
    flags = ("--config=experiments/bigram.py:smoke", f"--workdir={folder}")
    result = run("main.py", *flags, WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    (offline,) = folder.glob("wandb/offline-run-*")
    inspect = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json"]
    lines = subprocess.check_output([*inspect, offline], text=True).splitlines()
    summary = json.loads(subprocess.check_output([*inspect, "--summary", offline], text=True))
    return folder, [json.loads(line) for line in lines], summary["summary"]


def test_every_key_of_the_workspace_is_logged(trained):
    """As the record has it and as W&B has it; a metric that is renamed fails here."""
    folder, records, summarised = trained
    history, summary = named(spec_of(workspace.build("e", "p", "n")))
    assert len(history) == 9 and len(summary) == 7
    recorded = {key for line in run_folder.read_lines(folder / "metrics.jsonl") for key in line}
    assert history <= recorded
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert history <= {key for row in rows for key in row}
    # Of a table W&B tells the parts: samples._type and so on.
    assert summary <= {key.partition(".")[0] for key in summarised} | set(summarised)
    assert summary - {"samples"} <= run_folder.read_json(folder / "summary.json").keys()
    # What a line is drawn against stands in the same row, or the line would have no points.
    for panel in panels(spec_of(workspace.build("e", "p", "n"))):
        if x := panel["config"].get("xAxis", "").removeprefix("summary:"):
            (y,) = panel["config"].get("metrics", ["val/loss"])
            assert x == "num_params" or all(x in row for row in rows if y in row)


def test_runs_are_grouped_by_what_a_run_sends_as_its_group(trained):
    folder, records, _ = trained
    spec = spec_of(workspace.build("e", "p", "n"))
    assert spec["section"]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    grouped = [panel["config"] for panel in panels(spec) if "metrics" in panel["config"]]
    assert all(config["groupBy"] == "group" and config["aggregate"] for config in grouped)
    (started,) = [record["run"] for record in records if record["type"] == "run"]
    config = run_folder.read_json(folder / "config.json")
    assert started["run_group"] == config["model"]["name"] == "bigram"


def test_the_loss_is_drawn_against_each_cost_of_training():
    spec = spec_of(workspace.build("e", "p", "n"))
    losses = [p["config"] for p in panels(spec) if p["config"].get("metrics") == ["val/loss"]]
    # W&B's own row number is called _step; ours is a metric like any other.
    assert [c["xAxis"] for c in losses] == ["tokens_seen", "seconds", "train_flops", "step"]
    assert all(c["xLogScale"] and c["smoothingType"] == "none" for c in losses)
    assert spec["section"]["settings"]["smoothingActive"] is False


def test_wandb_reads_the_spec_as_it_was_meant():
    """Its own way back from what a server keeps gives the same spec again."""
    import wandb_workspaces.workspaces as ws

    built = workspace.build("e", "p", "n")
    again = ws.Workspace._from_model(built._to_model())
    assert named(spec_of(again)) == named(spec_of(built))
    assert [g.name for g in again.runset_settings.groupby] == ["Group"]


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


def test_the_workspace_is_saved_and_replaced():
    sent, said = [], []
    spec = workspace.build("entity", "mine", "n")._to_model().spec
    as_sent = spec.model_dump_json(by_alias=True, exclude_none=True)
    for views in ([], [{"node": {"id": "old", "displayName": "n", "spec": as_sent}}]):
        with Server() as server:
            server.views = views
            result = command("--project=mine", "--name=n", **online(server))
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        said.append(result.stdout)
        asked = [variables for name, variables in server.operations if name == "View"]
        sent += [variables for name, variables in server.operations if name == "UpsertView2"]
        # What is looked for is what is saved.
        assert [variables["viewName"] for variables in asked] == [sent[-1]["name"]]
    name = workspace.view_name("n")
    address = re.escape(f"/entity/mine?nw={name[3:-2]}\n")
    assert all(re.match(rf"workspace: http://\S+{address}", text) for text in said)
    assert "It is new" in said[0]
    assert "took the place of the earlier one called 'n'" in said[1]
    first, second = sent
    assert first["type"] == second["type"] == "project-view"
    assert (first["entityName"], first["projectName"]) == ("entity", "mine")
    assert (first["name"], first["displayName"]) == (name, "n")
    assert ("id" in first, second["id"]) == (False, "old")
    assert without_ids(first["spec"]) == without_ids(second["spec"]) == without_ids(as_sent)


def without_ids(spec):
    """A spec without the random ids that W&B's library gives panels."""

    def cleaned(part):
        if isinstance(part, dict):
            return {key: cleaned(value) for key, value in part.items() if key != "__id__"}
        return [cleaned(one) for one in part] if isinstance(part, list) else part

    return cleaned(json.loads(spec))


def test_an_entity_is_taken_by_its_word():
    with Server() as server:
        result = command("--entity=team", "--project=mine", **online(server))
    assert result.returncode == 0, result.stderr
    (saved,) = [variables for name, variables in server.operations if name == "UpsertView2"]
    assert saved["entityName"] == "team"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("", "mine", "a 😀"), "--name=a 😀 can't be the name of a workspace: W&B takes no emoji"),
        (("", "mine", ""), "--name= is empty"),
        (("", "me/mine", "n"), "--project=me/mine is not the name of a project"),
        (("", "", "n"), "--project= is not the name of a project"),
    ],
)
def test_what_wandb_has_no_place_for_is_refused(flags, words):
    with pytest.raises(errors.UserError, match=re.escape(words)):
        workspace.build(*flags)


def test_mistakes_are_one_line():
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
    assert os.read(terminal, 65536).startswith(b"error: W&B did not take the workspace (Usage")


class SilentAtTheEnd(Server):
    """Answers every question, and says nothing to the workspace itself."""

    def answer(self, path, body):
        if "UpsertView2" in body.get("query", ""):
            self.closing.wait()
        return super().answer(path, body)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_said_soon():
    soon = {"WANDB_HTTP_TIMEOUT": "2", "WANDB_API_KEY": KEY}
    words = "W&B did not take the workspace (no answer from the server within 2 s)"
    started = time.monotonic()
    assert_refused(command(WANDB_BASE_URL=NOWHERE, **soon), words)
    with SilentAtTheEnd() as server:
        assert_refused(command(WANDB_BASE_URL=server.url, **soon), words)
    assert time.monotonic() - started < 30
