"""The W&B workspace of the stages: it draws metrics that runs log, and is saved on a server."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness
import run_folder
from experiments import default
from runtime import errors
from tests.command import ROOT, assert_refused
from tests.forked import run
from tests.wandb_server import Server
from tracking import panels as drawn
from tracking import workspace

KEY = "k" * 40
NOWHERE = "http://127.0.0.1:9"


def command(*flags, **environment):
    return run("-m", "tracking.workspace", *flags, **environment)


def online(server):
    # A key from a file has a line end, and the client would not start with the others.
    odd = {"WANDB_CONSOLE": "on", "WANDB_TAGS": "", "WANDB_SILENT": "perhaps"}
    return {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": f"{KEY}\n", **odd}


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
                history |= {config["xAxis"], *config.get("metrics", [])}
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
    flags = ("--config=experiments/bigram.py:smoke", "--config.train.log_norms_every_steps=10")
    result = run("main.py", *flags, f"--workdir={folder}", WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    (offline,) = folder.glob("wandb/offline-run-*")
    inspect = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json"]
    lines = subprocess.check_output([*inspect, offline], text=True).splitlines()
    summary = json.loads(subprocess.check_output([*inspect, "--summary", offline], text=True))
    return folder, [json.loads(line) for line in lines], summary["summary"]


@pytest.mark.long
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
            if panel["config"].get("useMetricRegex"):
                drawn = re.compile(panel["config"]["metricRegex"]).search
            else:
                (y,) = panel["config"].get("metrics", ["val/loss"])
                drawn = y.__eq__
            assert x == "num_params" or all(x in row for row in rows if any(map(drawn, row)))


@pytest.mark.long
def test_runs_are_grouped_by_the_group_that_a_run_sends(trained, spec):
    folder, records, _ = trained
    assert spec["section"]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    grouped = [panel["config"] for panel in panels(spec) if "metrics" in panel["config"]]
    assert all(config["groupBy"] == "group" and config["aggregate"] for config in grouped)
    (started,) = [record["run"] for record in records if record["type"] == "run"]
    config = run_folder.read_json(folder / "config.json")
    assert started["run_group"] == config["tracking"]["experiment"] == "bigram:smoke"


@pytest.mark.slow
def test_the_loss_is_drawn_against_each_cost_of_training(spec):
    losses = [p["config"] for p in panels(spec) if p["config"].get("metrics") == ["val/loss"]]
    # W&B's own row number is called _step; ours is a metric like any other.
    assert [c["xAxis"] for c in losses] == ["tokens_seen", "seconds", "train_flops", "step"]
    assert all(c["xLogScale"] and c["smoothingType"] == "none" for c in losses)
    assert spec["section"]["settings"]["smoothingActive"] is False


@pytest.mark.long
def test_the_norms_of_all_layers_are_drawn(trained, spec):
    drawn = [p["config"]["metricRegex"] for p in panels(spec) if "metricRegex" in p["config"]]
    assert all(p["config"]["useMetricRegex"] for p in panels(spec) if "metricRegex" in p["config"])
    rows = [record["history"]["item"] for record in trained[1] if record["type"] == "history"]
    norms = {key for row in rows for key in row if key.startswith("norms/")}
    found = [{key for key in norms if re.search(expression, key)} for expression in drawn]
    assert len(found) == 2 and all(found) and set.union(*found) == norms


@pytest.mark.slow
def test_wandb_reads_the_spec_as_intended(saved, spec):
    """W&B's library loads the workspace, and saves the same one."""
    with Server() as server:
        server.views = [view(saved[2]["spec"])]
        # Alone, it takes none of the values that this harness mends.
        account = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        result = run("-c", RELOAD, f"{server.url}/entity/mine?nw={saved[1]}", **account)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "['Group']"
    assert named(json.loads(sent_to(server)["spec"])) == named(spec)


def test_another_name_is_another_workspace():
    names = ["Stages", "stages", "my stages", "Этапы", "段階"]
    kept = {workspace.view_name(name) for name in names}
    assert len(kept) == len(names)
    assert all(re.fullmatch("nw-[0-9a-f]{11}-v", name) for name in kept)
    assert workspace.view_name("Stages") == workspace.view_name("Stages")


@pytest.mark.slow
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
    for metric, _ in drawn.TRAINING:
        assert f"lines: {metric} against step, grouped by experiment" in result.stdout
    for words in ("bars: val/bits_per_byte", "table: samples", "points: val/loss against num_par"):
        assert words in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_without_flags_the_project_is_the_one_that_runs_go_to():
    result = command("--dry_run", WANDB_BASE_URL=NOWHERE, WANDB_API_KEY="")
    assert "in <your entity>/transformers-from-scratch\n" in result.stdout
    result = command("--dry_run", WANDB_PROJECT="mine\n")
    assert "in <your entity>/mine\n" in result.stdout


@pytest.mark.long
def test_the_workspace_of_sweeps_has_their_settings_as_runs_send_them(trained):
    with Server() as server:
        result = command("--project=mine", "--sweeps", **online(server))
    assert result.returncode == 0, result.stderr
    sent = sent_to(server)
    assert sent["displayName"] == "Sweeps"
    spec = json.loads(sent["spec"])
    # Each run by itself: W&B would draw the mean of a group.
    assert spec["section"]["runSets"][0]["grouping"] == []
    settings, importance, progress = [panel["config"] for panel in panels(spec)]
    *axes, last = [column["accessor"] for column in settings["columns"]]
    assert last == "summary:val/loss" and importance["targetKey"] == "val/loss"
    assert (progress["xAxis"], progress["yAxis"]) == ("run:createdAt", "summary:val/loss")
    assert progress["showMinYAxisLine"]
    _, records, summarised = trained
    (started,) = [record["run"] for record in records if record["type"] == "run"]
    # The address of a flat key: its name, then `.value`.
    sent_keys = {f"config:{key}.value" for key in started["config"]["update"]}
    assert len(axes) == 7 and set(axes) <= sent_keys
    assert "val/loss" in summarised


@pytest.fixture(scope="module")
def reported():
    """Output and requests of the command, for a new report and for one that is there already."""
    results = []
    with Server() as server:
        for known in ([], [{"node": {"id": "old", "displayName": "n", "name": "x"}, "cursor": ""}]):
            server.reports = known
            results.append(command("--report", "--project=mine", "--name=n", **online(server)))
            assert results[-1].returncode == 0, results[-1].stderr
            sent = [variables for name, variables in server.operations if name == "upsertView"]
    return [result.stdout for result in results], sent


@pytest.mark.slow
def test_the_report_is_saved_and_replaced(reported):
    printed, sent = reported
    for text, number in zip(printed, ("7", "old"), strict=True):
        assert re.match(rf"report: http://\S+/entity/mine/reports/n--{number}\n", text)
    assert "It is new" in printed[0] and "It replaced the earlier report 'n'." in printed[1]
    assert [one["id"] for one in sent] == [None, "old"]
    assert all((one["type"], one["displayName"]) == ("runs", "n") for one in sent)


@pytest.mark.slow
def test_the_report_has_the_stages_the_panels_of_the_workspace_and_their_runs(reported, spec):
    blocks = json.loads(reported[1][0]["spec"])["blocks"]
    text = json.dumps(blocks)
    for stage in default.LADDER:
        config = harness.config_of(stage, {})
        assert f"{stage}: {config.tracking.notes}" in text
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    for grid in grids:
        (runs,) = grid["runSets"]
        assert runs["project"]["name"] == "mine"
        assert runs["grouping"] == [{"section": "run", "name": "group"}]
    shown = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    known = [(panel["viewType"], panel["config"]) for panel in panels(spec)]
    assert len(shown) == 6
    assert all((panel["viewType"], panel["config"]) in known for panel in shown)
    (first, *_) = (panel["config"] for panel in shown)
    assert (first["xAxis"], first["metrics"], first["groupBy"]) == (
        "train_flops",
        ["val/loss"],
        "group",
    )


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_entity_flag():
    with Server() as server:
        result = command("--entity=team", "--project=mine", **online(server))
    assert result.returncode == 0, result.stderr
    assert sent_to(server)["entityName"] == "team"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("", "mine", "a 😀"), "--name=a 😀: expected a name that W&B accepts, without emoji and"),
        (("", "me/mine", "n"), "--project=me/mine: expected a project's name without a slash"),
        (("", "", "n"), "--project=: expected a project's name"),
        (("", "a#b", "n"), "--project='a#b': W&B takes none of"),
    ],
)
def test_names_that_wandb_does_not_accept_are_refused(flags, words):
    with pytest.raises(errors.UserError, match=re.escape(words)):
        workspace.build(*flags)


@pytest.mark.long
def test_errors_are_one_line():
    assert_refused(command("--projekt=x"), "projekt")
    assert_refused(command("--report", "--sweeps"), "--report --sweeps: expected one of them")
    assert_refused(command("--report", "--dry_run", f"--name={'x' * 129}"), "1 to 128 characters")
    no_key = command(WANDB_API_KEY="", WANDB_BASE_URL=NOWHERE, HOME="/nonexistent")
    assert_refused(no_key, "No API key configured")
    assert_refused(command(WANDB_API_KEY="short", WANDB_BASE_URL=NOWHERE), "40+ characters")
    with Server() as server:
        server.has_project = False
        for what in ((), ("--report",)):
            gone = command("--project=gone", *what, **online(server))
            assert_refused(gone, "no project entity/gone")


@pytest.mark.slow
def test_a_missing_key_is_not_asked_for_on_a_terminal():
    terminal, inside = pty.openpty()
    process = subprocess.run(
        [sys.executable, "-m", "tracking.workspace"],
        cwd=ROOT,
        env={**os.environ, "WANDB_BASE_URL": NOWHERE, "WANDB_API_KEY": "", "HOME": "/nonexistent"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
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


@pytest.mark.long
def test_a_server_that_does_not_answer_is_reported_soon():
    soon = {"WANDB_HTTP_TIMEOUT": "2", "WANDB_API_KEY": KEY}
    words = "W&B did not accept the workspace (no answer from the server within 2 s)"
    # W&B's library alone would try again for minutes: its limit ends a command that waits for it.
    assert_refused(command(WANDB_BASE_URL=NOWHERE, **soon), words)
    with SilentAtTheEnd() as server:
        assert_refused(command(WANDB_BASE_URL=server.url, **soon), words)
