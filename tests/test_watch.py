"""report.py --watch as a user runs it: over sockets, in a browser, until Ctrl-C."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import browser
from tests.command import PATIENCE, ROOT, assert_refused
from tests.forked import run
from tests.test_report import write_run


@dataclass
class Watch:
    """A server started on `folder`, which holds no run at first."""

    process: subprocess.Popen
    folder: Path
    port: int

    def ask(self, method="GET", path="/", host="", **headers) -> http.client.HTTPResponse:
        """Returns the answer to a request of its own connection, with the body in `body`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        host = host or f"127.0.0.1:{self.port}"
        connection.request(method, path, headers={"Host": host, **headers})
        answer = connection.getresponse()
        answer.body = answer.read().decode()
        connection.close()
        return answer


@pytest.fixture(scope="module")
def watch(tmp_path_factory) -> Iterator[Watch]:
    folder = tmp_path_factory.mktemp("watch")
    words = [sys.executable, "report.py", str(folder), "--watch", "--port=0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=ROOT, env=os.environ, **pipes) as process:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
        assert process.stdout.readline().startswith(f"waiting: {folder} holds no run")
        yield Watch(process, folder, port)
        process.kill()


@pytest.mark.slow
def test_it_answers_for_its_page_alone(watch):
    answer = watch.ask()
    assert answer.status == 200 and "holds no run" in answer.body
    assert watch.ask(host=f"localhost:{watch.port}").status == 200
    same = watch.ask(**{"If-None-Match": answer.headers["ETag"]})
    assert (same.status, same.body) == (304, "")
    for request, status in (
        ({"path": "/report.py"}, 404),
        ({"path": "/?x"}, 404),
        ({"path": f"http://127.0.0.1:{watch.port}/"}, 404),
        ({"method": "POST"}, 405),
        ({"method": "HEAD"}, 405),
        ({"method": "DELETE"}, 405),
        ({"method": "BREW"}, 501),
        ({"host": "evil.example"}, 421),
        ({"host": f"evil.example:{watch.port}"}, 421),
        ({"host": f"127.0.0.1:{watch.port + 1}"}, 421),
    ):
        refused = watch.ask(**request)
        assert refused.status == status, request
        assert "holds no run" not in refused.body
        assert status != 405 or refused.headers["Allow"] == "GET"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", watch.port), timeout=PATIENCE)


@pytest.mark.slow
def test_a_body_is_not_the_next_request(watch):
    host = f"Host: 127.0.0.1:{watch.port}\r\n"
    body = f"GET / HTTP/1.1\r\n{host}\r\n"
    with socket.create_connection(("127.0.0.1", watch.port), timeout=PATIENCE) as connection:
        head = f"POST / HTTP/1.1\r\n{host}Content-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 405 ") and answer.count(b"HTTP/1.1") == 1


class TestPage:
    __test__ = browser.is_wanted()

    def add(self, watch: Watch, stage: int, name: str) -> None:
        """Moves a run into the folder as a whole: a part of it would be rendered, too."""
        write_run(watch.folder.with_name(name), stage).rename(watch.folder / name)

    @pytest.mark.long
    def test_it_is_renewed_and_keeps_what_was_chosen(self, watch):
        with browser.launch() as chromium:
            page = chromium.new_page(viewport={"width": 390, "height": 600})
            page.set_default_timeout(browser.MILLISECONDS)
            problems = []
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(f"http://127.0.0.1:{watch.port}/")
            assert "holds no run" in page.locator(".lead").inner_text()
            self.add(watch, 1, "other")
            self.add(watch, 2, "first")
            page.get_by_label("first", exact=True).uncheck()
            page.get_by_label("tokens", exact=True).check()
            page.get_by_label("logarithmic").check()
            page.locator("#bits svg").wait_for()
            # Without anchors, for charts that are drawn only now would move the page.
            page.evaluate("document.documentElement.style.overflowAnchor = 'none'")
            page.evaluate("scrollTo(0, 700)")
            self.add(watch, 3, "second")
            page.get_by_label("second", exact=True).wait_for()
            page.locator("#bits svg").wait_for()
            assert page.get_by_label("second", exact=True).is_checked()
            assert not page.get_by_label("first", exact=True).is_checked()
            assert page.get_by_label("tokens", exact=True).is_checked()
            assert page.get_by_label("logarithmic").is_checked()
            page.wait_for_function("scrollY === 700")
            assert problems == []


@pytest.mark.slow
def test_ctrl_c_ends_it_in_one_line(watch):
    watch.process.send_signal(signal.SIGINT)
    _, stderr = watch.process.communicate(timeout=PATIENCE)
    assert (watch.process.returncode, stderr) == (130, "interrupted\n")


@pytest.mark.long
def test_mistakes_are_one_line_each(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run("report.py", tmp_path, "--watch", f"--port={port}")
        assert_refused(refused, f"--port={port} is in use; name another, or 0 for any free one")
    refused = run("report.py", tmp_path, "--watch", "--data=x.json")
    assert_refused(refused, "--data=x.json: --watch writes no file; leave it out")
