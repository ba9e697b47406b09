"""Runs the code of a learner: with a time limit, its prints kept, its errors as one line."""

import ast
import contextlib
import difflib
import faulthandler
import io
import os
import runpy
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exercises.catalogue import Exercise
from runtime.terminal import escape_controls

# Seconds for a file to load, and for one call of a function in it.
TIME_LIMIT = 15.0
# Seconds after which code that catches the time limit, too, ends the whole command.
PATIENCE = 3.0


class Wrong(Exception):
    """Answer that is not right. The message is one line."""


class Blank(Wrong):
    """Answer that nobody has written yet."""


class TimeUp(BaseException):
    """End of a time limit; no `except Exception` in a learner's loop catches it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeUp(limit) in the block after so many seconds, or when an enclosing limit ends."""
    begin = time.monotonic()
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    limit = min(seconds, left) if left else seconds

    def stop(*_: Any) -> None:
        raise TimeUp(limit)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit, 0.2)
    try:
        yield
    finally:
        rest = max(left - (time.monotonic() - begin), 1e-3) if left else 0.0
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if rest:
            signal.setitimer(signal.ITIMER_REAL, rest, 0.2)


class Answer:
    """The functions that a learner has written for one exercise."""

    def __init__(self, exercise: Exercise, folder: Path) -> None:
        """Reads and runs the file. Raises Wrong for one that can't be, Blank for a blank."""
        self.exercise = exercise
        self.path = folder / exercise.file
        self.name = os.path.relpath(self.path)
        self.printed = io.StringIO()
        self._check_blanks(ast.parse(self._read()))
        # As a file of one's own experiment is run: nothing of it is imported, or kept compiled.
        self.names: dict[str, Any] = self._guard(
            self.path.name, lambda: runpy.run_path(str(self.path), run_name=self.path.stem)
        )
        for name in exercise.functions:
            if not callable(self.names.get(name)):
                raise Wrong(f"{self.name}: {name} is not a function: expected def {name}(...)")

    def call(self, name: str, *args: Any) -> Any:
        """Returns the result of a function on copies of `args`. Raises Wrong if it fails."""
        copies = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
        return self._guard(f"{name}()", lambda: self.names[name](*copies))

    def _read(self) -> str:
        try:
            source = self.path.read_text(encoding="utf-8")
            compile(source, str(self.path), "exec")
        except SyntaxError as error:
            raise Wrong(f"{self.name}, line {error.lineno}: {_line(error)}") from None
        except (OSError, ValueError) as error:
            raise Wrong(
                f"{self.name} can't be read ({_line(error)}): git checkout {self.name} restores "
                "the blank file"
            ) from None
        return source

    def _check_blanks(self, tree: ast.Module) -> None:
        """Raises Wrong for a function that is gone, Blank for one without code."""
        defined = {
            node.name: node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assigned = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for name in self.exercise.functions:
            if name in assigned:
                continue  # A lambda, or a function from somewhere else.
            if name not in defined:
                near = difflib.get_close_matches(name, defined, 1)
                others = f": is it {near[0]}, line {defined[near[0]].lineno}?" if near else ""
                raise Wrong(f"{self.name} has no function {name}{others}")
            if _is_blank(defined[name]):
                self._blank(name, defined[name].lineno)

    def _blank(self, name: str, line: int | None) -> None:
        place = f", line {line}" if line else ""
        raise Blank(f"{self.exercise.id} is still blank: write {name} in {self.name}{place}")

    def _guard(self, what: str, run: Callable[[], Any]) -> Any:
        """Returns what `run` does, within the limits. Raises Wrong with the learner's line."""
        watchdog = threading.Timer(
            TIME_LIMIT + PATIENCE, self._give_up, (what, threading.get_ident())
        )
        watchdog.daemon = True
        watchdog.start()
        # Ends even a loop in C that keeps all threads of Python waiting: sum(range(10**15)).
        faulthandler.dump_traceback_later(TIME_LIMIT + 2 * PATIENCE, exit=True, file=2)
        try:
            with (
                time_limit(TIME_LIMIT),
                contextlib.redirect_stdout(self.printed),
                contextlib.redirect_stderr(self.printed),
                warnings.catch_warnings(),
                np.errstate(all="ignore"),
            ):
                warnings.simplefilter("ignore")
                return run()
        except TimeUp as stop:
            raise Wrong(self._too_long(what, self._lines_of(stop), stop.args[0])) from None
        except NotImplementedError as error:
            raise Blank(
                f"{self.exercise.id} is still blank: {self.name}{self._at(error)} raises "
                "NotImplementedError"
            ) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too: exit() in an answer.
            raise Wrong(f"{self.name}{self._at(error)}: {_line(error)}") from None
        finally:
            watchdog.cancel()
            watchdog.join()  # If it has begun to give up, this process ends here.
            faulthandler.cancel_dump_traceback_later()

    def _give_up(self, what: str, thread: int) -> None:
        """Ends the process, which is in a loop that nothing else ends."""
        lines: list[int] = []
        frame = sys._current_frames().get(thread)
        while frame:
            if frame.f_code.co_filename == str(self.path):
                lines.insert(0, frame.f_lineno)
            frame = frame.f_back
        assert sys.__stdout__
        message = (
            f"{self.exercise.id} {self._too_long(what, lines, TIME_LIMIT)}; the checks end here"
        )
        with contextlib.suppress(OSError):
            sys.__stdout__.write(f"✗ {message}\n" if _has_marks() else f"wrong: {message}\n")
            sys.__stdout__.flush()
        os._exit(1)

    def _too_long(self, what: str, lines: list[int], limit: float) -> str:
        place = f", line {lines[-1]}" if lines else ""
        return f"{self.name}{place}: {what} ran for more than {limit:.2g} s: an endless loop?"

    def _lines_of(self, error: BaseException) -> list[int]:
        """Returns the lines of the learner's file in a traceback, outermost first."""
        lines: list[int] = []
        trace = error.__traceback__
        while trace:
            if trace.tb_frame.f_code.co_filename == str(self.path):
                lines.append(trace.tb_lineno)
            trace = trace.tb_next
        return lines

    def _at(self, error: BaseException) -> str:
        lines = self._lines_of(error)
        return f", line {lines[-1]}" if lines else ""


def _is_blank(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Returns True for a body of a docstring and nothing, `...`, pass or NotImplementedError."""

    def does_nothing(node: ast.stmt) -> bool:
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Raise) and node.exc:
            return "NotImplementedError" in ast.unparse(node.exc)
        return isinstance(node, ast.Pass)

    return all(map(does_nothing, function.body))


def _line(error: BaseException) -> str:
    """Returns the type and the message of an error, on one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    message = " ".join(text.split())[:200]
    return escape_controls(
        f"{type(error).__name__}: {message}" if message else type(error).__name__
    )


def _has_marks() -> bool:
    """Returns True if the output can show ✓ and ✗."""
    return "utf" in (getattr(sys.__stdout__, "encoding", "") or "").lower()


def marks() -> tuple[str, str, str]:
    """Returns the signs of a right, a wrong and a blank answer."""
    return ("✓", "✗", "·") if _has_marks() else ("right:", "wrong:", "blank:")
