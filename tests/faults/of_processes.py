"""Stops one of two processes of a run at random moments: the harness for runs of several processes.

    python -m tests.faults.of_processes --kills=40 --seed=1

One process is killed, is stopped and does not answer, or is asked to end. The other has to end by
itself, in one line; and the run that both resume has to end as one that was never stopped.
"""

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

import run_folder
from sweep_engine.workers import KILLED
from tests.command import OF_A_COMMAND, wait_until
from tests.faults.harness import ENVIRONMENT, Harness, main, totals, victim
from tests.processes import Processes

# SIGKILL is what most faults look like.
SIGNALS = [signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP]
# Seconds until the other process has ended.
PATIENCE = {signal.SIGKILL: 10, signal.SIGTERM: OF_A_COMMAND, signal.SIGSTOP: 60}


class OfProcesses(Harness):
    """Runs of two processes, of which one stops."""

    def __init__(
        self, folder: Path, seed: int, stages: Sequence[str] = ("self_attention", "gpt2")
    ) -> None:
        super().__init__(folder, seed, stages)
        self.signals = itertools.cycle(SIGNALS)
        self.waited: Counter[str] = Counter()

    def code(self, moment: dict) -> int:
        """Returns the exit code of the process that `moment` stops."""
        return {signal.SIGTERM: 128 + signal.SIGTERM}.get(moment["signal"], KILLED)

    def moment(self, counted: dict) -> dict:
        """Returns a moment of one of the two, and what stops it."""
        number = self.draw.randrange(2)
        moment = super().moment(counted["each"][number])
        # A request to end is agreed on in the loop alone: before it, one process asked is one lost.
        kind = next(self.signals) if "phase" in moment else signal.SIGKILL
        return {**moment, "number": number, "signal": kind}

    def reference(self, stage: str) -> dict:
        """Returns what both processes of an uninterrupted run count."""
        both = self.start(stage, self.folder / stage, {}).wait()
        assert [code for code, _, _ in both] == [0, 0], both
        return {"each": [totals(out) for _, out, _ in both]}

    def train(self, stage: str, workdir: Path, moment: dict) -> tuple[int, str]:
        """Exit code and output of the process that stops, or of process 0 if the run ends."""
        both = self.start(stage, workdir, moment)
        number = moment.get("number", 0)
        if moment:
            self.wait_for_end(both.all[number], both.all[1 - number], moment)
        ended = both.wait()
        code, out, err = ended[number]
        other_code, _, other_err = ended[1 - number]
        if "KILLED" in err:
            asked = moment["signal"] == signal.SIGTERM
            # JAX itself may be the first to notice, which aborts the process. Or both have left.
            has_left = other_code == 0 and run_folder.SUMMARY in os.listdir(workdir)
            as_it_should = other_code == code if asked else other_code != 0 or has_left
            assert as_it_should and other_err.count("\n") <= 1, (moment, ended)
        return code, out + err

    def start(self, stage: str, workdir: Path, moment: dict) -> Processes:
        """Starts both processes, of which one has the moment."""
        chosen = moment.get("number")
        commands = [victim(moment if number == chosen else {}, stage, workdir) for number in (0, 1)]
        return Processes(2, commands=commands, **ENVIRONMENT)

    def wait_for_end(self, stopping: Popen, other: Popen, moment: dict) -> None:
        """Waits until one process has stopped and the other has ended, no longer than it may."""
        wait_until(lambda: state(stopping) in "TZ" or other.poll() is not None)
        since = time.monotonic()
        wait_until(lambda: other.poll() is not None)
        seconds, number = time.monotonic() - since, moment["signal"]
        self.waited[number.name] = max(self.waited[number.name], seconds)
        assert seconds < PATIENCE[number], (seconds, moment)
        if state(stopping) == "T":
            stopping.kill()

    def report(self) -> str:
        waited = ", ".join(f"{seconds:.1f} s after {name}" for name, seconds in self.waited.items())
        return f"{super().report()}; the other ended at most {waited}"


def state(process: Popen) -> str:
    """Returns the system's letter for what a process does: T if stopped, Z if it has ended."""
    if process.poll() is not None:
        return "Z"
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


if __name__ == "__main__":
    main(OfProcesses)
