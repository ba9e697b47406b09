"""Every command of README and how-to pages, run as it stands there in a copy of the checkout.

Some are run in a shorter form: the ladder with `:smoke` sizes, long runs with few updates, the
sweep with two runs, `make test` (it is what runs this) and `make notebooks` as dry runs, the
dashboard in a terminal that types q; and `wandb sync` talks to a server here.
"""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

import harness
import run_folder
from experiments import default
from tests import browser
from tests.command import AS_USERS_DO, OF_A_COMMAND, PATIENCE, ROOT
from tests.wandb_server import Server
from training.setup import check_config

STAGES = (*default.LADDER, "gpt2-1e13")
README = (ROOT / "README.md").read_text()
# In an order in which the runs that a page needs are there.
HOW_TO = [
    "index",
    *(f"how_to/{name}" for name in ("first_run", "your_text", "your_experiment", "sweep")),
    *(f"how_to/{name}" for name in ("resume", "dashboard")),
]
# What the README and the pages of details have; sweeps of full size are not run again.
PAGES = {
    "README.md": README,
    **{f"docs/{name}.md": (ROOT / f"docs/{name}.md").read_text() for name in HOW_TO},
    "docs/gpt2.md": (ROOT / "docs/gpt2.md").read_text().split("## Results of the sweeps")[0],
}
COMMANDS = list(
    dict.fromkeys(
        line.partition("  # ")[0].strip()
        for page in PAGES.values()
        for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
        if line.strip()
    )
)
# The environments are not made again: they are the ones that this runs in.
MAKE = "make -o .venv/setup.stamp -o .venv/dev.stamp -o .venv/docs.stamp"
SHORTER = {
    "make ladder": f"{MAKE} ladder PRESET=smoke",
    "make test": f"{MAKE} --dry-run test",
    "make docs": f"{MAKE} docs",
    # tests/test_notebooks.py makes and runs them.
    "make notebooks": f"{MAKE} --dry-run notebooks",
}
# For commands with these words: the last value of a flag counts. tests/test_speedrun.py trains a
# speedrun to its end.
FEW_UPDATES = ("transformer_decoder.py", "gpt2.py:finetune", "gpt2.py:speedrun_5s")


def shorter(command: str) -> str:
    """Returns what is run for a command: itself, or the same with less to train."""
    if any(word in command for word in FEW_UPDATES):
        return f"{command} --config.train.num_steps=30"
    return SHORTER.get(command, command.replace("--count=10", "--count=2"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what a commit would hold, with this environment as its .venv."""
    folder = tmp_path_factory.mktemp("readme") / "checkout"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for path in subprocess.check_output(listing, cwd=ROOT, text=True).split("\0"):
        if path and (ROOT / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs a command typed into bash in an activated environment.

    Runs of full size are optimized as for users; without, they take longer than that. The ladder's
    are not of full size here.
    """
    is_small = "smoke" in command or "runs/ladder" in command
    optimization = {} if is_small else AS_USERS_DO
    return subprocess.run(
        ["bash", "-c", f"source .venv/bin/activate && {command}"],
        cwd=folder,
        env={**os.environ, **optimization, **environment},
        capture_output=True,
        text=True,
        timeout=3 * OF_A_COMMAND,
    )


@pytest.fixture(scope="module")
def ladder(checkout):
    """The output of `make ladder`, with the sizes of `:smoke`."""
    result = shell(SHORTER["make ladder"], checkout)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def others(checkout, ladder):
    """The results of all the other commands, in the order of the README."""
    with Server() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}
        commands = [command for command in COMMANDS if command != "make ladder"]
        return {
            command: in_terminal(command, checkout)
            if "tracking.dashboard" in command
            else shell(shorter(command), checkout, **online)
            for command in commands
        }


def in_terminal(command: str, folder: Path) -> subprocess.CompletedProcess:
    """`shell` for a program that fills the screen: q is typed once it draws the losses."""
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (40, 140))
    process = subprocess.Popen(
        ["bash", "-c", f"source .venv/bin/activate && {command}"],
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    screen, until = b"", time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if select.select([terminal], [], [], 1)[0]:
            screen += os.read(terminal, 65536)
        if b"val/loss" in screen:
            os.write(terminal, b"q")
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.wait(), screen.decode(errors="replace"), "")


def test_the_readme_has_commands():
    assert {"make ladder", "make test"} <= set(COMMANDS)


def test_what_the_readme_links_to_is_there():
    """tests/test_site.py builds the other pages, whose links Sphinx checks."""
    links = re.findall(r"\]\((?!https://)([^)#]+)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_readme_is_short():
    assert len(README.split()) <= 1200


def test_an_experiment_of_ones_own_is_what_the_readme_shows(tmp_path):
    (block,) = re.findall(r"```python\n# experiments/mine.py.*?\n(.*?)```", README, re.DOTALL)
    (tmp_path / "mine.py").write_text(block)
    config = harness.config_of(f"{tmp_path}/mine.py:smoke", {})
    check_config(config)
    assert (config.model.num_layers, config.model.positions) == (2, "rotary")
    assert config.tracking.experiment == "mine:smoke"


@pytest.mark.long
@pytest.mark.parametrize("command", [one for one in COMMANDS if one != "make ladder"])
def test_a_command_of_the_readme_works(command, others):
    result = others[command]
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.long
def test_the_ladder_leaves_finished_runs(checkout, ladder):
    for place, stage in enumerate(STAGES, start=1):
        run = checkout / "runs/ladder" / stage
        assert run_folder.read_json(run / "summary.json")["status"] == "done"
        assert run_folder.read_json(run / "config.json")["tracking"]["stage"] == place
        assert list((run / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.long
def test_the_ladder_ends_with_the_table_and_how_to_go_on(checkout, ladder):
    _, _, end = ladder.stdout.rpartition("6 of 6 runs have ended")[2].partition("\n")
    places = [
        re.search(rf"^\s*(\d+ )?.*\b{stage}\s", end, re.MULTILINE).start() for stage in STAGES
    ]
    assert places == sorted(places)
    for stage in STAGES:
        loss = run_folder.read_json(checkout / f"runs/ladder/{stage}/summary.json")["val/loss"]
        assert f"{loss:.3f}"[:5] in end
    pages = ("look_inside.py runs/ladder", "playground.py runs/ladder")
    for word in ("runs/ladder/report.html", "tracking.dashboard", "wandb sync", *pages):
        assert word in end


@pytest.mark.long
def test_a_second_ladder_changes_nothing(checkout, ladder):
    runs = checkout / "runs/ladder"
    before = {
        path: path.read_bytes() for path in runs.rglob("*") if path.suffix in (".jsonl", ".json")
    }
    assert before
    again = shell(SHORTER["make ladder"], checkout)
    assert again.returncode == 0, again.stderr
    for stage in STAGES:
        assert "finished at step 20 already" in (runs / f"logs/{stage}.log").read_text()
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.slow
class TestPage:
    """The ladder's page in a browser with no network; `open_file` sees that it reports no error."""

    __test__ = browser.is_wanted()

    @pytest.mark.long
    def test_it_shows_every_stage(self, checkout, ladder):
        with (
            browser.launch() as chromium,
            browser.open_file(chromium, checkout / "runs/ladder/report.html") as page,
        ):
            text = page.inner_text("body")
            for stage in STAGES:
                assert stage in text
            assert page.locator("svg, canvas").count() > 0
