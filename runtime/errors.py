"""How a command fails: one clear line for a person, and the exit code that scripts rely on."""

import os
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable
from functools import partial

from absl import app, flags, logging

from runtime.terminal import inert

# 0 is success; 128 + a signal's number is a run that the signal stopped.
FAILED = 1
USER_ERROR = 2
DIVERGED = 3
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
PIPE_CLOSED = 128 + 13


class UserError(Exception):
    """A mistake that the user can mend: a flag, a config value, a file.

    The message is one line that names the value, what was expected and what to change.
    """


class Failed(Exception):
    """The machine let a run down, by a full disk for example. The message is one line on how."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: what stops a run of a sweep, or everything on a machine that shuts down."""


class Diverged(Exception):
    """A loss or a gradient is not finite. The message is one line that names the step."""


def run_command(
    main: Callable[..., None],
    *,
    positional: bool = False,
    explain: Callable[[list[str]], str] = lambda argv: "",
) -> None:
    """Parses the absl flags of this process, runs `main`, and exits.

    With `positional`, `main` is given what stands between the flags, an argument each. Of wrong
    flags `explain` may know more than the first mistake; an empty text leaves it at that.

    Raises SystemExit: 0 when done, `USER_ERROR` after printing one line for a wrong flag or a
    `UserError`, `DIVERGED` after a `Diverged`, `FAILED` after a `Failed`. Any other exception is a
    defect of ours and keeps its traceback.
    """
    signal.signal(signal.SIGTERM, _terminate)
    app.run(
        lambda argv: _exit_with(partial(main, *argv[1:])),
        flags_parser=partial(_parse_flags, positional=positional, explain=explain),
    )


def _terminate(*_) -> None:
    raise Terminated


def _exit_with(main: Callable[[], None]) -> None:
    try:
        main()
    except Terminated as stop:
        _fail(str(stop) or "terminated", TERMINATED)
    except KeyboardInterrupt as stop:
        _fail(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output, `head` for example, has enough. Nothing is left to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except UserError as error:
        _fail(error, USER_ERROR)
    except Diverged as error:
        _fail(error, DIVERGED)
    except Failed as error:
        _fail(error, FAILED)


def _parse_flags(
    argv: list[str], *, positional: bool, explain: Callable[[list[str]], str]
) -> list[str]:
    """Flags as absl parses them; whatever is wrong with one is one line and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
    # A config flag runs the experiment file and then sets one key at a time, so a mistake surfaces
    # as whatever was raised there: KeyError for an unknown key, TypeError for a value's type, ...
    except Exception as error:
        message = explain(argv[1:]) or f"{_experiment_line(error)}{_message(error)}"
        _fail(message, USER_ERROR)
    if len(rest) > 1 and not positional:
        _fail(f"unexpected argument {rest[1]!r}: every option is a flag, --name=value", USER_ERROR)
    # Libraries log each of their steps at level INFO; --verbosity=0 still shows it.
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING
    return rest


def _experiment_line(error: Exception) -> str:
    """`FILE, line N: ` where the error came out of an experiment file, else nothing.

    That is the last frame that belongs neither to us nor to a library.
    """
    libraries = (*sysconfig.get_paths().values(), "<")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [
        frame
        for frame in frames
        if frame.filename != __file__ and not frame.filename.startswith(libraries)
    ]
    if isinstance(error, UserError) or not theirs:
        return ""
    return f"{theirs[-1].filename}, line {theirs[-1].lineno}: {type(error).__name__}: "


def _message(error: Exception) -> str:
    """What is wrong, out of the several ways in which ml_collections says it."""
    text = str(error)
    if isinstance(error, AttributeError | KeyError) and error.args:
        text = str(error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0])
    if isinstance(error, OSError):
        return text.splitlines()[-1].strip()  # The lines before it tell where a file was sought.
    return text.split(" Other fields present")[0]  # A locked config shows all of itself there.


def _fail(error: Exception | str, code: int) -> None:
    print("error: " + inert(" ".join(str(error).split())), file=sys.stderr)
    sys.exit(code)
