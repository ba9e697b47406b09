"""A training run that kills itself at a chosen moment: `python victim.py MOMENT main.py FLAGS`.

MOMENT is JSON: {"file": 12}, at the twelfth operation on a file of the run folder, or
{"phase": "dispatch", "seconds": 0.3}, after so many seconds in that phase; {} lets the run end and
prints how much there was of each. Nothing of the product knows of it: Python itself reports what
files are touched, and what each thread is at.
"""

import json
import os
import runpy
import signal
import sys
import threading
import time
from collections import Counter

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
POLL_SECONDS = 0.001
# What a file's name says about what is being done to it.
FILES = {"checkpoints": "save", "metrics.jsonl": "log", "samples.jsonl": "log"}


def main() -> None:
    moment, script, *flags = json.loads(sys.argv[1]), sys.argv[2], *sys.argv[3:]
    (workdir,) = [flag.partition("=")[2] for flag in flags if flag.startswith("--workdir=")]
    watch = Watch(moment, workdir)
    sys.addaudithook(watch.on_event)
    threading.Thread(target=watch.poll, daemon=True).start()
    sys.argv = [script, *flags]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        print(f"\nVICTIM {json.dumps(watch.totals())}", flush=True)


class Watch:
    """Counts what the run does, and ends it when the moment has come."""

    def __init__(self, moment: dict, workdir: str) -> None:
        self.moment = moment
        self.workdir = workdir
        self.files = 0
        self.seconds = Counter()
        self.main = threading.main_thread().ident

    def totals(self) -> dict:
        return {"files": self.files, **self.seconds}

    def on_event(self, event: str, arguments: tuple) -> None:
        if event not in FILE_EVENTS or not str(arguments[0]).startswith(self.workdir):
            return
        self.files += 1
        if self.files == self.moment.get("file"):
            inside = str(arguments[0])[len(self.workdir) + 1 :].lstrip(".")
            what = [phase for name, phase in FILES.items() if inside.startswith(name)]
            self.die(what[0] if what else "start or end", f"{event} {inside}")

    def poll(self) -> None:
        before = time.perf_counter()
        while True:
            time.sleep(POLL_SECONDS)
            now = time.perf_counter()
            phase = self.phase()
            self.seconds[phase] += now - before
            before = now
            limit = self.moment.get("seconds", 0)
            if phase == self.moment.get("phase") and self.seconds[phase] >= limit:
                self.die(phase, f"after {limit:.3f} s")

    def phase(self) -> str:
        """What the main thread is at, by the functions it is in."""
        frame, names = sys._current_frames().get(self.main), []
        while frame:
            names.append((os.path.basename(frame.f_code.co_filename), frame.f_code.co_name))
            frame = frame.f_back
        for function, phase in (
            (("train.py", "validation_metrics"), "evaluate"),
            (("train.py", "save"), "save"),
            (("train.py", "sample"), "sample"),
            (("train.py", "log"), "log"),
            (("train.py", "lower"), "compile"),
            (("train.py", "train"), "dispatch"),
        ):
            if function in names:
                return phase
        return "start or end"

    def die(self, phase: str, where: str) -> None:
        os.write(2, f"\nKILLED {phase}: {where}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
