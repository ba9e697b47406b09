"""A minimal W&B server on the loopback interface, for the real client.

It records the requests. With `falls_silent` it stops answering once a run has started; `stopped` is
the state of the stop button on the run's page.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.wandb_artifacts import Artifacts

LAST_PAGE = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
# The project of saved workspaces and reports, in a list of projects.
LISTED = {
    "id": "1",
    "name": "mine",
    "entityName": "entity",
    "createdAt": "2026-01-01T00:00:00Z",
    "isBenchmark": False,
    "user": None,
}
PROJECT = {"id": "1", "name": "project", "entity": {"name": "entity"}}


class Server:
    """Server on a free port of 127.0.0.1, for the duration of a `with` block."""

    def __init__(self, falls_silent: bool = False, stopped: bool = False) -> None:
        self.operations: list[tuple[str, dict]] = []
        self.history: dict[int, dict] = {}  # By the client's offset of a row.
        self.console: dict[int, str] = {}  # Lines of the Logs tab, by number.
        self.uploads: dict[str, bytes] = {}  # Files, by upload path.
        self.views: list[dict] = []  # Saved workspaces, in the client's format.
        self.reports: list[dict] = []  # Saved reports, likewise.
        self.has_project = True
        self.falls_silent = falls_silent
        self.stopped = stopped
        self._silent = False
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        # A client that a test has killed is not an error.
        self._server.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.artifacts = Artifacts(self.url, PROJECT)

    def __enter__(self) -> "Server":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def respond(self, path: str, body: dict) -> tuple[int, dict]:
        """Returns the status and the content of the response to a POST."""
        return 200, self.answer(path, body)

    def answer(self, path: str, body: dict) -> dict:
        """Returns the content of the response, and records the request."""
        uploads = path.endswith("/file_stream")
        self._silent |= self.falls_silent and uploads
        if self._silent:
            self.closing.wait()
        if uploads:
            sent = body.get("files", {})
            nothing = {"offset": 0, "content": []}
            rows = sent.get("wandb-history.jsonl", nothing)
            for number, line in enumerate(rows["content"], start=rows["offset"]):
                self.history.setdefault(number, json.loads(line, parse_constant=str))
            lines = sent.get("output.log", nothing)
            self.console |= dict(enumerate(lines["content"], start=lines["offset"]))
            return {"exitcode": None, "limits": {}, "stopped": self.stopped}
        # Some requests have the operation's name in the query alone.
        named = re.search(r"(?:query|mutation)\s+(\w+)", body.get("query", ""))
        operation = body.get("operationName") or (named[1] if named else "")
        variables = body.get("variables") or {}
        self.operations.append((operation, variables))
        return {"data": self.query_result(operation, variables)}

    def query_result(self, operation: str, variables: dict) -> dict:
        bucket = {"id": "2", "name": variables.get("name"), "config": "{}", "project": PROJECT}
        viewer = {"id": "3", "entity": "entity", "username": "user", "flags": "{}", "teams": None}
        if (answer := self.artifacts.answers(operation, variables)) is not None:
            return answer
        return {
            "Viewer": {"viewer": viewer},
            "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
            "CreateRunFiles": {"createRunFiles": self._upload_urls(variables)},
            "View": {"project": (self.has_project and {"allViews": {"edges": self.views}}) or None},
            "ProjectViews": {"project": (self.has_project and self._reports()) or None},
            "ProjectInternalId": {"project": {"id": "1", "internalId": "1"}},
            "GetProjects": {"models": {"edges": [{"node": LISTED}], "pageInfo": LAST_PAGE}},
            "upsertView": {"upsertView": {"view": {**variables, "id": variables.get("id") or "7"}}},
            "UpsertView2": {"upsertView": {"view": {"id": "6", "name": variables.get("name")}}},
            "RunStoppedStatus": {"project": {"run": {"stopped": self.stopped}}},
            "GetDefaultEntity": {"viewer": viewer},
        }.get(operation, {"project": None})  # Nothing else exists.

    def _reports(self) -> dict:
        return {"allViews": {"edges": self.reports, "pageInfo": LAST_PAGE}}

    def _upload_urls(self, variables: dict) -> dict:
        """Returns the URLs to which the client uploads a run's files."""
        run = variables.get("run")
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"}
            for name in variables.get("files", ())
        ]
        return {"runID": run, "uploadHeaders": [], "files": files}


def upload_path(path: str) -> str:
    """Returns the upload path in the path of a URL."""
    return unquote(path.partition("/upload/")[2])


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            # The client's own telemetry has another format, or is empty.
            body = json.loads(raw) if raw.startswith(b"{") else {}
            status, content = server.respond(self.path, body)
            if server.closing.is_set():
                return  # The client has timed out by now.
            self._reply(status, json.dumps(content).encode())

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            server.uploads[upload_path(self.path)] = content
            self._reply(200, b"{}")

        def do_GET(self) -> None:
            content = server.uploads.get(upload_path(self.path))
            self._reply(404 if content is None else 200, content or b"")

        def _reply(self, status: int, answer: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    return Handler
