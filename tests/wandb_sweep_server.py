"""Fake W&B server with sweeps, for real `wandb sweep`, `wandb agent` and `wandb sync` processes.

It gives the points of a grid to agents, stores by id what each run sends, and can fail, hang, or
stop runs on request.
"""

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

import yaml

from sweep_engine import search, sweep_file
from tests.wandb_server import PROJECT, Server


@dataclass
class Received:
    """Data that a run sent: its settings in order, and each row of history by its offset."""

    buckets: list[dict] = field(default_factory=list)
    rows: dict[int, dict] = field(default_factory=dict)
    repeated: list[int] = field(default_factory=list)  # Offsets that arrived twice.
    complete: bool = False
    exit_code: int | None = None

    @property
    def config(self) -> dict:
        """Returns the config as the server stores it: the last value of each name."""
        kept: dict = {}
        for bucket in self.buckets:
            kept |= json.loads(bucket.get("config") or "{}")
        return {key: entry["value"] for key, entry in kept.items() if key != "_wandb"}

    def first(self, key: str):
        """Returns the first value that was sent for a setting."""
        return next((bucket[key] for bucket in self.buckets if bucket.get(key)), None)


class SweepServer(Server):
    """Server of one sweep at a time, the last that was created."""

    def __init__(self) -> None:
        super().__init__()
        self.received: dict[str, Received] = defaultdict(Received)
        self.sweep_text = ""
        self.points: list[dict] = []  # Not assigned yet.
        self.assigned: dict[str, dict] = {}  # Points by run.
        self.by_agent: dict[str, list[str]] = defaultdict(list)
        self.num_agents = 1  # That must have come before any gets a second point.
        self.stop_when = lambda run_id, received: False
        self.failing_until = 0.0
        self.hanging_until = 0.0
        self.failures = 0
        self.lock = threading.Lock()

    def fail_for(self, seconds: float) -> None:
        """Answers with status 500 for `seconds`."""
        self.failing_until = time.monotonic() + seconds

    def hang_for(self, seconds: float) -> None:
        """Gives no answer for `seconds`."""
        self.hanging_until = time.monotonic() + seconds

    def reassign(self) -> list[str]:
        """Queues unfinished runs under the same ids, as after preemption, and returns those."""
        again = [run_id for run_id in self.assigned if not self.received[run_id].complete]
        for run_id in again:
            self.points.insert(0, {"run_id": run_id, **self.assigned[run_id]})
        return again

    def respond(self, path: str, body: dict) -> tuple[int, dict]:
        """Returns the status and the body of the answer, after any failure that was asked for."""
        while time.monotonic() < self.hanging_until and not self.closing.is_set():
            time.sleep(0.1)
        if time.monotonic() < self.failing_until:
            self.failures += 1
            return 500, {"error": "on purpose"}
        with self.lock:
            return 200, self.answer(path, body)

    def answer(self, path: str, body: dict) -> dict:
        """Stores a run's history; any other request goes to the base class."""
        if not path.endswith("/file_stream"):
            return super().answer(path, body)
        run = self.received[path.split("/")[-2]]
        sent = body.get("files", {}).get("wandb-history.jsonl")
        for offset, line in enumerate(sent["content"], start=sent["offset"]) if sent else ():
            if offset in run.rows:
                run.repeated.append(offset)
            run.rows[offset] = json.loads(line, parse_constant=str)
        run.complete |= bool(body.get("complete"))
        run.exit_code = body.get("exitcode", run.exit_code)
        return {"exitcode": None, "limits": {}}

    def query_result(self, operation: str, variables: dict) -> dict:
        special = {
            "UpsertSweep": self._create_sweep,
            "SweepWithRuns": self._describe_sweep,
            "GetSweepState": self._describe_sweep,
            "CreateAgent": self._create_agent,
            "Heartbeat": self._command,
            "UpsertBucket": self._upsert_run,
            "RewindRun": self._rewind,
        }
        made = special.get(operation)
        return made(variables) if made else super().query_result(operation, variables)

    def create(self, text: str) -> str:
        """Creates the sweep of a file's text, as `wandb sweep` does; returns its address."""
        self._create_sweep({"config": text})
        return "entity/project/sweep001"

    def _create_sweep(self, variables: dict) -> dict:
        self.sweep_text = variables["config"]
        content = yaml.safe_load(self.sweep_text)
        if content["method"] == "grid":
            made = sweep_file.parse(content)
            count = search.num_points(made)
            self.points = [search.grid_point(made, number + 1) for number in range(count)]
        return {"upsertSweep": {"sweep": {"name": "sweep001", "project": PROJECT}}}

    def _describe_sweep(self, _: dict) -> dict:
        config = self.sweep_text
        about = {"id": "s", "name": "sweep001", "state": "RUNNING", "config": config}
        return {"project": {"sweep": {**about, "controller": None, "runs": {"edges": []}}}}

    def _create_agent(self, _: dict) -> dict:
        agent = f"agent{len(self.by_agent) + 1}"
        self.by_agent[agent] = []
        return {"createAgent": {"agent": {"id": agent}}}

    def _command(self, variables: dict) -> dict:
        """Returns the agent's next commands: stop a run, start one, or exit."""
        agent, running = variables["id"], json.loads(variables["runState"])
        commands = []
        for run_id in running:
            if self.stop_when(run_id, self.received[run_id]):
                commands.append({"type": "stop", "run_id": run_id})
        idle = self.num_agents - sum(map(bool, self.by_agent.values()))
        if not running and self.points and idle > 0 and self.by_agent[agent]:
            pass  # It asks again.
        elif not running and self.points:
            point = dict(self.points.pop(0))
            run_id = point.pop("run_id", f"run{len(self.assigned) + 1:03}")
            self.assigned[run_id] = point
            self.by_agent[agent].append(run_id)
            arguments = {name: {"value": value} for name, value in point.items()}
            program = yaml.safe_load(self.sweep_text)["program"]
            run = {"type": "run", "run_id": run_id, "program": program, "args": arguments}
            commands.append(run)
        elif not running:
            commands.append({"type": "exit"})
        return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(commands)}}

    def _upsert_run(self, variables: dict) -> dict:
        run = self.received[variables["name"]]
        run.buckets.append(variables)
        return {"upsertBucket": {"bucket": self._bucket(variables["name"]), "inserted": True}}

    def _rewind(self, variables: dict) -> dict:
        """Drops the rows past a step, as `resume_from` asks."""
        run = self.received[variables["runName"]]
        kept = int(variables["metricValue"]) + 1
        run.rows = {offset: row for offset, row in run.rows.items() if offset < kept}
        return {"rewindRun": {"rewoundRun": self._bucket(variables["runName"])}}

    def _bucket(self, run_id: str) -> dict:
        run = self.received[run_id]
        return {
            "id": f"id-{run_id}",
            "name": run_id,
            "displayName": run.first("displayName"),
            "config": "{}",
            "sweepName": run.first("sweep"),
            "historyLineCount": len(run.rows),
            "project": PROJECT,
        }
