"""Every command of the README, run as it stands there in a copy of the checkout; the ladder first.

Three are run in a shorter form: the ladder with `:smoke` sizes, `make test` as a dry run (it is
what runs this), `wandb leet` in a terminal that types q; and `wandb sync` talks to a server here.
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

import run_folder
from experiments import default
from tests import browser
from tests.command import AS_USERS_DO, ROOT
from tests.wandb_server import Server

STAGES = default.LADDER
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("  # ")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
# The environments are not made again: they are the ones that this runs in.
MAKE = "make -o .venv/setup.stamp -o .venv/dev.stamp"
SHORTER = {
    "make ladder": f"{MAKE} ladder PRESET=smoke",
    "make test": f"{MAKE} --dry-run test",
}


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

    Runs of full size are optimized as for users; without, they take longer than that.
    """
    optimization = {} if "smoke" in command else AS_USERS_DO
    return subprocess.run(
        ["bash", "-c", f"source .venv/bin/activate && {command}"],
        cwd=folder,
        env={**os.environ, **optimization, **environment},
        capture_output=True,
        text=True,
        timeout=300,
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
            if command.startswith("wandb leet")
            else shell(SHORTER.get(command, command), checkout, **online)
            for command in commands
        }


def in_terminal(command: str, folder: Path) -> subprocess.CompletedProcess:
    """`shell` for a program that fills the screen: q is typed once it shows a metric's name."""
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
    screen, until = b"", time.monotonic() + 30
    while process.poll() is None and time.monotonic() < until:
        if select.select([terminal], [], [], 1)[0]:
            screen += os.read(terminal, 65536)
        if b"loss" in screen:
            os.write(terminal, b"q")
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.wait(), screen.decode(errors="replace"), "")


def test_the_readme_has_commands():
    assert {"make ladder", "make test"} <= set(COMMANDS)


def test_what_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if one != "make ladder"])
def test_a_command_of_the_readme_works(command, others):
    result = others[command]
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_the_ladder_leaves_five_finished_runs(checkout, ladder):
    for place, stage in enumerate(STAGES, start=1):
        run = checkout / "runs/ladder" / stage
        assert run_folder.read_json(run / "summary.json")["status"] == "done"
        assert run_folder.read_json(run / "config.json")["tracking"]["stage"] == place
        assert list((run / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.slow
def test_the_ladder_ends_with_the_table_and_how_to_go_on(checkout, ladder):
    _, _, end = ladder.stdout.rpartition("done: ")
    places = [
        re.search(rf"^\s*(\d+ )?.*\b{stage}\b", end, re.MULTILINE).start() for stage in STAGES
    ]
    assert places == sorted(places)
    for stage in STAGES:
        loss = run_folder.read_json(checkout / f"runs/ladder/{stage}/summary.json")["val/loss"]
        assert f"{loss:.3f}"[:5] in end
    for word in ("runs/ladder/report.html", "wandb leet", "wandb sync"):
        assert word in end


@pytest.mark.slow
def test_a_second_ladder_changes_nothing(checkout, ladder):
    runs = checkout / "runs/ladder"
    before = {
        path: path.read_bytes() for path in runs.rglob("*") if path.suffix in (".jsonl", ".json")
    }
    assert before
    again = shell(SHORTER["make ladder"], checkout)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished at step 20 already") == 5
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.slow
class TestPage:
    """The ladder's page in a browser with no network; `open_file` sees that it reports no error."""

    __test__ = browser.is_wanted()

    def test_it_shows_every_stage(self, checkout, ladder):
        with (
            browser.launch() as chromium,
            browser.open_file(chromium, checkout / "runs/ladder/report.html") as page,
        ):
            text = page.inner_text("body")
            for stage in STAGES:
                assert stage in text
            assert page.locator("svg, canvas").count() > 0
