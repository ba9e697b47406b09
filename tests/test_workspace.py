"""The W&B workspace of the stages: what it draws is what runs log, and a server gets it whole."""

import json
import re

import pytest

from tests.command import assert_refused, run
from tests.wandb_server import Server
from tracking import run_folder, workspace

KEY = "k" * 40


def command(*flags, **environment):
    return run("-m", "tracking.workspace", *flags, **environment)


def panels(built):
    return [panel for section in built.sections for panel in section.panels]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The metrics that a run logs."""
    folder = tmp_path_factory.mktemp("run") / "run"
    flags = ("--config=experiments/gpt2.py:smoke", f"--workdir={folder}")
    result = run("main.py", *flags, WANDB_MODE="disabled")
    assert result.returncode == 0, result.stderr
    return {key for line in run_folder.read_lines(folder / "metrics.jsonl") for key in line}


def test_every_metric_of_the_panels_is_logged(logged):
    drawn = set()
    for panel in panels(workspace.build("e", "p", "n")):
        drawn |= set(getattr(panel, "y", None) or getattr(panel, "metrics", ()))
        drawn |= {panel.x} if hasattr(panel, "x") else set()
    assert len(drawn) == 10
    assert drawn <= logged


def test_the_server_is_told_of_every_panel_by_the_names_of_the_record():
    spec = workspace.build("e", "p", "n")._to_model().spec.model_dump(by_alias=True)
    sections = spec["section"]["panelBankConfig"]["sections"]
    made = [panel["config"] for section in sections for panel in section["panels"]]
    lines = [config for config in made if config.get("xAxis")]
    against = {config["xAxis"] for config in lines if config["metrics"] == ["val/loss"]}
    # W&B's own row number is called _step; ours is a metric like any other.
    assert against == {"tokens_seen", "seconds", "train_flops", "step"}
    assert {config["metrics"][0] for config in lines} >= {"train/learning_rate", "train/grad_norm"}
    assert all(config["groupBy"] == "group" for config in lines)
    assert spec["section"]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    assert "samples" in json.dumps(made)


def test_a_dry_run_needs_no_server_and_no_key(tmp_path):
    result = command(
        "--dry_run",
        "--project=mine",
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY="",
        HOME=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert "<your entity>/mine" in result.stdout
    for metric in ("tokens_seen", "seconds", "train_flops"):
        assert f"val/loss against {metric}, logarithmic, grouped by stage" in result.stdout
    for words in ("bars: val/bits_per_byte", "train/tokens_per_second", "table: samples"):
        assert words in result.stdout


def test_the_workspace_is_saved_and_replaced(tmp_path):
    sent = []
    for views in ([], [{"node": {"id": "old", "displayName": "n", "spec": None}}]):
        with Server() as server:
            for view in views:
                spec = workspace.build("entity", "mine", "n")._to_model().spec
                view["node"]["spec"] = spec.model_dump_json(by_alias=True, exclude_none=True)
            server.views = views
            result = command(
                "--project=mine", "--name=n", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY
            )
            assert result.returncode == 0, result.stderr
            assert re.search(r"^workspace: http://\S+/entity/mine\?nw=n$", result.stdout, re.M)
            sent += [
                variables
                for operation, variables in server.operations
                if operation == "UpsertView2"
            ]
    first, second = sent
    assert (first["type"], first["projectName"], first["name"]) == (
        "project-view",
        "mine",
        "nw-n-v",
    )
    assert "id" not in first
    assert second["id"] == "old"
    assert "val/bits_per_byte" in first["spec"]


def test_mistakes_are_one_line():
    assert_refused(command("--projekt=x"), "projekt")
    no_key = command(WANDB_API_KEY="", WANDB_BASE_URL="http://127.0.0.1:9", HOME="/nonexistent")
    assert_refused(no_key, "No API key configured")
    with Server() as server:
        server.has_project = False
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        assert_refused(command("--project=gone", **environment), "no project entity/gone")


@pytest.mark.slow
def test_a_server_that_is_not_there_is_said_soon():
    result = command(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=KEY)
    assert_refused(result, "W&B did not take the workspace")
