"""Serves the page to this machine alone, and renews it while runs go on: `report.py --watch`.

It answers `GET /` and nothing else. A request that names another host is refused, so that no site
on the web can read the page through a name of its own for 127.0.0.1 (DNS rebinding).
"""

import errno
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, NoReturn

from reporting import page
from reporting.runs import DEPTHS
from runtime.errors import UserError

ADDRESS = "127.0.0.1"
# Seconds between two looks at the files.
INTERVAL = 1.0
# Rendering takes seconds of a core, which training needs: of all time at most this share.
SHARE = 0.2


class Server(ThreadingHTTPServer):
    """Server of one page. `version` is its entity tag, without quotes."""

    def __init__(self, port: int) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.version, self.content = "", b""

    def server_bind(self) -> None:
        """Binds without the look-up of the host's name, which may ask the network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a browser that leaves before the end of an answer; else shows the traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def publish(self, version: str, text: str) -> None:
        """Serves a text from now on."""
        # A sample or a file name may hold half of a surrogate pair, which UTF-8 can't encode.
        self.version, self.content = version, text.encode("utf-8", "replace")


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        """Answers a request of any method that HTTP defines."""
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path != "/":
            self._refuse(HTTPStatus.NOT_FOUND)
        elif self.command != "GET":
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET")
        else:
            version, content = f'"{self.server.version}"', self.server.content
            if self.headers.get("If-None-Match") == version:
                self._answer(HTTPStatus.NOT_MODIFIED, b"", ETag=version)
            else:
                self._answer(HTTPStatus.OK, content, "text/html", ETag=version)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def _refuse(self, status: HTTPStatus, **headers: str) -> None:
        # The request may have a body, which would be read as the next request.
        self.close_connection = True
        text = b"" if self.command == "HEAD" else f"{status.phrase}\n".encode()
        self._answer(status, text, "text/plain", Connection="close", **headers)

    def _answer(self, status: HTTPStatus, content: bytes, kind: str = "", **headers: str) -> None:
        self.send_response_only(status)
        if kind:
            headers["Content-Type"] = f"{kind}; charset=utf-8"
            headers["Content-Length"] = str(len(content))
        headers["Cache-Control"] = "no-cache"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["X-Content-Type-Options"] = "nosniff"
        headers["X-Frame-Options"] = "DENY"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Logs nothing: the page asks every other second."""


def watch(folders: Sequence[Path], port: int, render: Callable[[str], str]) -> NoReturn:
    """Serves what `render` returns for a version, anew whenever the runs have changed.

    A UserError of it, such as for a folder that has no run yet, is shown until the next change.
    Raises UserError if the port can't be had.
    """
    try:
        server = Server(port)
    except OSError as error:
        reason = (
            "is in use" if error.errno == errno.EADDRINUSE else f"can't be had: {error.strerror}"
        )
        raise UserError(f"--port={port} {reason}; name another, or 0 for any free one") from None
    # Versions of a server that ran here before are other ones.
    started, count, told = time.time_ns(), 0, ""
    seen: list[tuple[str, int, int]] | None = None
    server.publish(f"{started}-0", page.waiting("reading the runs", f"{started}-0"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://{ADDRESS}:{server.server_port}/"
    print(f"report: {address} (renewed while runs go on; Ctrl-C ends)", flush=True)
    while True:
        if (files := fingerprint(folders)) != seen:
            seen, count, began = files, count + 1, time.monotonic()
            version = f"{started}-{count}"
            try:
                text, message = render(version), ""
            except UserError as error:
                text, message = page.waiting(f"waiting: {error}", version), f"waiting: {error}"
            server.publish(version, text)
            if message and message != told:
                print(message, flush=True)
            told = message
            time.sleep((time.monotonic() - began) * (1 / SHARE - 1))
        time.sleep(INTERVAL)


def fingerprint(folders: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Returns path, time and size of each file of the runs; a changed run has another."""
    found = []
    for path in sorted(
        x for folder in folders for depth in DEPTHS for x in folder.glob(f"{depth}*.json*")
    ):
        try:
            stat = path.stat()
        except OSError:
            continue  # A temporary file.
        found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return found
