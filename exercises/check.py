"""Checks your answers: python -m exercises.check, or one exercise (2.1), or a stage (2).

A right answer gets a tick; any other one line that says what differs, and a hint. Exit code 0: all
are right; 1: a wrong or blank answer; 2: no such exercise or flag.
"""

import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from exercises import learner
from exercises.catalogue import EXERCISES, FOLDER, Exercise
from exercises.learner import Answer, Blank, TimeUp, Wrong, time_limit
from runtime import errors
from runtime.terminal import escape_controls

# Seconds of a whole call, of the check of one exercise, and too few to begin one.
CALL_LIMIT, CHECK_LIMIT, SHORTEST = 57.0, 55.0, 2.0

LIST = flags.DEFINE_bool("list", False, "Lists the exercises, and which of them are written.")
RUN = flags.DEFINE_string(
    "run", "runs/ladder", "Your run folder, or a folder of them, for exercises of the kind find."
)
ANSWERS = flags.DEFINE_string("answers", str(FOLDER), "The folder with stage_1.py and so on.")
SHOW = flags.DEFINE_bool("show", False, "Also shows what your code prints.")


class Setting(NamedTuple):
    """Place of the learner's run."""

    run: Path


class Result(NamedTuple):
    """Outcome of one check."""

    state: str  # right, wrong, blank, or stopped by the time limit.
    text: str  # A remark on a right answer; else what is wrong.
    printed: str = ""  # By the learner's code.


def main(*asked: str) -> None:
    chosen = choose(asked)
    folder = Path(ANSWERS.value).expanduser()
    if not folder.is_dir():
        raise errors.UserError(
            f"--answers={ANSWERS.value}: expected a folder with stage_1.py and so on"
        )
    if LIST.value:
        for exercise in chosen:
            state = "blank  " if is_blank(exercise, folder) else "written"
            print(
                f"{exercise.id}  {state}  {exercise.kind:<7}  {exercise.title}: {exercise.sentence}"
            )
        return
    until = time.monotonic() + CALL_LIMIT
    states = []
    for exercise in sorted(chosen, key=lambda one: one.is_slow):
        left = until - time.monotonic()
        result = check(exercise, folder, Path(RUN.value).expanduser(), left)
        print("\n".join(lines(exercise, result, SHOW.value)), flush=True)
        states.append(result.state)
    if len(chosen) > 1:
        print(f"{states.count('right')} of {len(chosen)} are right", flush=True)
    if "stopped" in states:
        # Threads of a run that was stopped in the middle would end in an abort.
        os._exit(errors.FAILED)
    if states.count("right") < len(chosen):
        sys.exit(errors.FAILED)


def choose(asked: Sequence[str]) -> list[Exercise]:
    """Returns the exercises that some arguments name, all for none. Raises UserError."""
    chosen = []
    for name in asked:
        found = [one for one in EXERCISES if name in (one.id, one.stage)]
        if not found:
            known = ", ".join(one.id for one in EXERCISES)
            raise errors.UserError(f"exercise {name!r}: expected 1 to 6, or one of {known}")
        chosen += [one for one in found if one not in chosen]
    return chosen or list(EXERCISES)


def is_blank(exercise: Exercise, folder: Path) -> bool:
    """Returns True if an exercise has no answer yet; a broken one counts as written."""
    try:
        Answer(exercise, folder)
    except Blank:
        return True
    except Wrong:
        return False
    return False


def check(exercise: Exercise, folder: Path, run: Path, seconds: float = CALL_LIMIT) -> Result:
    """Returns the result of one exercise, within the seconds that are left of a call."""
    again = f"python -m exercises.check {exercise.id}"
    if seconds < SHORTEST:
        return Result("stopped", f"not checked: this call has taken its {CALL_LIMIT:g} s; {again}")
    answer = None
    try:
        with time_limit(min(CHECK_LIMIT, seconds)):
            answer = Answer(exercise, folder)
            # JAX takes seconds to load: a blank needs none of it.
            module = importlib.import_module(f"exercises.checks.{Path(exercise.file).stem}")
            remark = getattr(module, exercise.functions[0])(answer, Setting(run))
        return Result("right", remark, answer.printed.getvalue())
    except Blank as error:
        return Result("blank", str(error))
    except Wrong as error:
        return Result("wrong", str(error), answer.printed.getvalue() if answer else "")
    except TimeUp:
        limit = f"{min(CHECK_LIMIT, seconds):.0f} s"
        return Result("stopped", f"the check took more than {limit}: the machine is busy; {again}")


def lines(exercise: Exercise, result: Result, show: bool = False) -> list[str]:
    """Returns the lines to print for a result, and with `show` what the learner's code printed."""
    right, wrong, blank = learner.marks()
    if result.state == "right":
        remark = f" ({result.text})" if result.text else ""
        found = [f"{right} {exercise.id} {exercise.title}{remark}"]
    elif result.state == "blank":
        found = [f"{blank} {result.text}"]
    else:
        found = [f"{wrong} {exercise.id} {result.text}"]
        if result.state == "wrong":
            found.append(f"  hint: {exercise.hint}")
    if printed := result.printed.splitlines():
        if show:
            found += [f"  | {escape_controls(line)}" for line in printed]
        else:
            found.append(f"  your code also printed {len(printed)} lines: --show shows them")
    return found


if __name__ == "__main__":
    errors.run_command(main, positional=True)
