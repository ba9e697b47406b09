"""A training run that kills itself at a chosen moment: `python victim.py MOMENT main.py FLAGS`.

MOMENT is JSON: {"file": 12}, at the twelfth operation on a file of the run folder, or
{"phase": "save", "entry": 3, "seconds": 0.3}, so many seconds after the run enters that phase for
the third time; {} lets the run end and prints how often each was entered and for how long. With
"signal" it sends itself that one instead. The run marks its phases itself, by audit events: see
runtime/phases.py.
"""

import json
import os
import runpy
import signal
import sys
import threading
import time
from collections import Counter

from runtime import phases

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
# The phase that an operation on a file belongs to, by the file's name.
FILES = {"checkpoints": "save", "metrics.jsonl": "log", "samples.jsonl": "log"}
OUTSIDE = "start or end"


def main() -> None:
    moment, script, *flags = json.loads(sys.argv[1]), sys.argv[2], *sys.argv[3:]
    (workdir,) = [flag.partition("=")[2] for flag in flags if flag.startswith("--workdir=")]
    watch = Watch(moment, workdir)
    sys.addaudithook(watch.on_event)
    sys.argv = [script, *flags]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        print(f"\nVICTIM {json.dumps(watch.totals())}", flush=True)


class Watch:
    """Counts the run's files and phases, and kills the process when the moment has come."""

    def __init__(self, moment: dict, workdir: str) -> None:
        self.moment = moment
        self.workdir = workdir
        self.files = 0
        self.entries: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.stack: list[tuple[str, float]] = []

    def totals(self) -> dict:
        """Returns the number of file operations, and (entries, seconds) of each phase."""
        phases = {name: [count, self.seconds[name]] for name, count in self.entries.items()}
        return {"files": self.files, "phases": phases}

    def on_event(self, event: str, arguments: tuple) -> None:
        if event == phases.ENTERED:
            self.on_entry(arguments[0])
        elif event == phases.LEFT:
            name, since = self.stack.pop()
            self.seconds[name] += time.perf_counter() - since
        elif event in FILE_EVENTS and str(arguments[0]).startswith(self.workdir):
            self.on_file(event, str(arguments[0])[len(self.workdir) + 1 :].lstrip("."))

    def on_entry(self, name: str) -> None:
        self.stack.append((name, time.perf_counter()))
        self.entries[name] += 1
        if (name, self.entries[name]) == (self.moment.get("phase"), self.moment.get("entry")):
            if not self.moment["seconds"]:
                return self.die(name, "on entering it")
            threading.Thread(target=self.die_later, daemon=True).start()

    def on_file(self, event: str, name: str) -> None:
        self.files += 1
        if self.files == self.moment.get("file"):
            phase = [phase for start, phase in FILES.items() if name.startswith(start)]
            self.die(phase[0] if phase else OUTSIDE, f"{event} {name}")

    def die_later(self) -> None:
        time.sleep(self.moment["seconds"])
        phase = self.stack[-1][0] if self.stack else OUTSIDE
        self.die(phase, f"{self.moment['seconds']:.3f} s after entering {self.moment['phase']}")

    def die(self, phase: str, where: str) -> None:
        # Not to number 2, where a run of several processes keeps the lines of native libraries.
        os.write(sys.stderr.fileno(), f"\nKILLED {phase}: {where}\n".encode())
        os.kill(os.getpid(), self.moment.get("signal", signal.SIGKILL))


if __name__ == "__main__":
    main()
