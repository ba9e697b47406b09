"""The W&B run of look_inside.py, by the real client: offline files, and a server on loopback."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import default
from tests.command import PATIENCE, ROOT
from tests.wandb_server import Server

MIRROR = """
import sys
from pathlib import Path
from experiments import default
from runtime import errors
from tracking import inspection

def main(folder, mode):
    inspection.FINISH_SECONDS = {seconds}
    page, figures, heads, numbers = {parts!r}
    parts = dict(page=page, figures=figures, heads=heads, numbers=numbers)
    print(inspection.mirror(default.get_config(), Path(folder), mode, **parts))

errors.run_command(main, positional=True)
"""
PAGE = "<!doctype html><title>inside</title><p>\u00e9</p>"
FIGURES = {"account/Nats gained": "<svg><text>a</text></svg>"}
HEADS = [{"run": "gpt2", "layer": 1, "cost": 0.5}, {"run": "gpt2", "layer": 2, "cost": None}]
NUMBERS = {"gpt2/loss": 1.5, "gpt2/as_good_as_n_gram": None}


def mirror(
    folder: Path, mode: str, seconds: int = PATIENCE, **environment: str
) -> subprocess.CompletedProcess:
    script = MIRROR.format(parts=(PAGE, FIGURES, HEADS, NUMBERS), seconds=seconds)
    return subprocess.run(
        [sys.executable, "-c", script, str(folder), mode],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_offline_it_has_the_page_the_figures_and_the_heads(tmp_path):
    made = mirror(tmp_path, "offline")
    assert made.returncode == 0, made.stderr
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert made.stdout == f"upload it: wandb sync {os.path.relpath(folder, ROOT)}\n"
    pages = {path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}
    assert pages == {PAGE, *FIGURES.values()}
    (table,) = (json.loads(path.read_text()) for path in folder.rglob("*.table.json"))
    assert table == {"columns": list(HEADS[0]), "data": [list(head.values()) for head in HEADS]}


@pytest.mark.long
def test_online_it_is_a_run_of_its_own_kind(tmp_path):
    with Server() as server:
        made = mirror(tmp_path, "online", WANDB_BASE_URL=server.url, WANDB_API_KEY="k" * 40)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("in W&B: ") and server.url in made.stdout
    (started, *_) = [
        variables for _, variables in server.operations if variables.get("jobType") is not None
    ]
    assert started["jobType"] == "inspect"
    assert started["project"] == default.get_config().tracking.wandb_project
    (row,) = server.history.values()
    assert {"inside", "inside/account/Nats gained", "inside/heads"} <= row.keys()
    assert PAGE.encode() in server.uploads.values()


@pytest.mark.long
def test_a_server_that_falls_silent_is_given_up_and_nothing_is_lost(tmp_path):
    with Server(falls_silent=True) as server:
        folder = tmp_path / "a folder"
        folder.mkdir()
        made = mirror(folder, "online", 2, WANDB_BASE_URL=server.url, WANDB_API_KEY="k" * 40)
    assert made.returncode == 0, made.stderr
    said, _, upload = made.stdout.partition(": wandb ")
    assert said == "W&B did not take all of it within 2 s; upload the rest"
    with Server() as server:
        words = [Path(sys.executable).with_name("wandb"), *shlex.split(upload)]
        variables = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}
        subprocess.run(words, cwd=ROOT, env={**os.environ, **variables}, check=True)
    assert PAGE.encode() in server.uploads.values()


@pytest.mark.slow
def test_without_a_key_it_is_one_line(tmp_path):
    with Server() as server:
        made = mirror(
            tmp_path, "online", WANDB_BASE_URL=server.url, WANDB_API_KEY="", HOME=str(tmp_path)
        )
    assert made.returncode == 2
    assert made.stderr.startswith("error: the W&B run was not made (")
    assert made.stderr.count("\n") == 1
