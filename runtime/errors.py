"""Errors of the commands: one line for the user, and an exit code for scripts."""

import io
import os
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable
from functools import partial

from absl import app, flags, logging

from runtime import process
from runtime.terminal import escape_controls

# 0 is success; 128 + a signal's number is a command that the signal stopped.
FAILED = 1
USER_ERROR = 2
DIVERGED = 3
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
PIPE_CLOSED = 128 + 13
# Flags of commands that name a file or a folder to write: no shell expands ~ after --workdir=.
PATHS = ("workdir", "output", "data", "figures")


class UserError(Exception):
    """Mistake that the user can fix: a flag, a config value, a file.

    The message is one line that names the value, what was expected and what to change.
    """


class Failed(Exception):
    """Failure of the machine, such as a full disk. The message is one line."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a run of a sweep, or everything on a machine that shuts down."""


class Diverged(Exception):
    """Loss or gradient that is not finite. The message is one line that names the step."""


def run_command(
    main: Callable[..., None],
    *,
    positional: bool = False,
    explain: Callable[[list[str]], str] = lambda argv: "",
) -> None:
    """Parses the absl flags of this process, runs `main`, and exits.

    With `positional`, `main` takes the arguments that are not flags. `explain(argv)` may return a
    better message for wrong flags than absl's, which names the first mistake alone.

    Raises SystemExit: 0 when done; after one line of error, `USER_ERROR` for a wrong flag or a
    `UserError`, `DIVERGED` for a `Diverged`, `FAILED` for a `Failed`. Any other exception is a bug
    and keeps its traceback.
    """
    process.set_up_home()
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Its encoding may lack a character of a text or a name: é is printed as \xe9, as in errors.
        sys.stdout.reconfigure(errors="backslashreplace")
    app.run(
        lambda argv: _exit_with(partial(main, *argv[1:])),
        flags_parser=partial(_parse_flags, positional=positional, explain=explain),
    )


def code_of(ending: BaseException) -> int:
    """Returns the exit code of a command that ends with one of the exceptions of this module."""
    codes = {
        Terminated: TERMINATED,
        KeyboardInterrupt: INTERRUPTED,
        UserError: USER_ERROR,
        Diverged: DIVERGED,
        Failed: FAILED,
    }
    return next(code for kind, code in codes.items() if isinstance(ending, kind))


def _terminate(*_) -> None:
    raise Terminated


def _exit_with(main: Callable[[], None]) -> None:
    try:
        main()
    except KeyboardInterrupt as stop:
        usual = "terminated" if isinstance(stop, Terminated) else "interrupted"
        _exit(str(stop) or usual, code_of(stop))
    except BrokenPipeError:
        # The reader, `head` for example, has closed the pipe: a flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except (UserError, Diverged, Failed) as error:
        _fail(error, code_of(error))


def _parse_flags(
    argv: list[str], *, positional: bool, explain: Callable[[list[str]], str]
) -> list[str]:
    """Parses flags with absl. A mistake is one line and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
    # A config flag runs the experiment file and sets the keys, so it may raise anything: KeyError
    # for an unknown key, TypeError for a value's type, ...
    except Exception as error:
        message = explain(argv[1:]) or f"{_experiment_line(error)}{_message(error)}"
        _fail(message, USER_ERROR)
    if len(rest) > 1 and not positional:
        _fail(f"unexpected argument {rest[1]!r}: every option is a flag, --name=value", USER_ERROR)
    for name in PATHS:
        if name in flags.FLAGS and (path := flags.FLAGS[name].value):
            flags.FLAGS[name].value = os.path.expanduser(path)
    # Libraries log a lot at level INFO; --verbosity=0 shows it.
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)
    return rest


def _experiment_line(error: Exception) -> str:
    """Returns `FILE, line N: ERROR: ` for an error raised in an experiment file, else "".

    The file is that of the last frame that is neither in this module nor in a library.
    """
    skipped = (*sysconfig.get_paths().values(), "<", __file__)
    trace = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in trace if not frame.filename.startswith(skipped)]
    if isinstance(error, UserError) or not frames:
        return ""
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {type(error).__name__}: "


def _message(error: Exception) -> str:
    """Returns the text of an error of absl or ml_collections, which has several forms."""
    text = str(error)
    if isinstance(error, AttributeError | KeyError) and error.args:
        text = str(error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0])
    if isinstance(error, OSError):
        return text.splitlines()[-1].strip()  # The lines before it list the folders searched.
    return text.split(" Other fields present")[0]  # A locked config lists all of its keys there.


def print_line(message: str) -> None:
    """Prints a message to standard error, as one line without control characters."""
    print(escape_controls(" ".join(message.split())), file=sys.stderr, flush=True)


def _fail(error: Exception | str, code: int) -> None:
    _exit(f"error: {error}", code)


def _exit(message: str, code: int) -> None:
    print_line(message)
    sys.exit(code)
