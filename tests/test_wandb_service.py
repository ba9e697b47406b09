"""Commands end in one line of error, whatever W&B's service process, which they start, does."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from tests.command import PATIENCE, ROOT
from tests.wandb_server import Server

COMMANDS = (
    ("evaluate.py", "--workdir=wandb:entity/project/name:best"),
    ("-m", "tracking.workspace", "--project=mine"),
    ("-m", "tracking.workspace", "--project=mine", "--report"),
)


class Silent(Server):
    """Server that answers nothing, and says when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def answer(self, path, body):
        """Returns the content of a response."""
        self.asked.set()
        self.closing.wait()
        return {}


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "number", "reason"),
    [
        # It answers nothing, and does not end when it is told to.
        *[(words, signal.SIGSTOP, "no answer from the server within 2 s") for words in COMMANDS],
        (COMMANDS[0], signal.SIGKILL, "W&B did not give the model ("),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value)[:12],
)
def test_a_command_ends_in_one_line_whatever_its_service_does(words, number, reason, tmp_path):
    variables = {"WANDB_API_KEY": "k" * 40, "WANDB_HTTP_TIMEOUT": "2", "HOME": str(tmp_path)}
    variables |= {"WANDB_ERROR_REPORTING": "false", "XDG_CACHE_HOME": str(tmp_path)}
    with Silent() as server, open(tmp_path / "stderr", "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, **variables, "WANDB_BASE_URL": server.url},
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
        try:
            assert server.asked.wait(PATIENCE)
            (service,) = psutil.Process(process.pid).children()
            service.send_signal(number)
            try:
                assert process.wait(PATIENCE) == 2
            finally:
                if number == signal.SIGSTOP:
                    service.kill()
        finally:
            process.kill()
    printed = (tmp_path / "stderr").read_text()
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert reason in printed
