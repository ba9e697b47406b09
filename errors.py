"""How a command fails: one clear line for a person, and the exit code that scripts rely on."""

import sys
import traceback
from collections.abc import Callable

from absl import app, flags, logging

# 0 is success; 128 + a signal's number is a run that the signal stopped.
USER_ERROR = 2
DIVERGED = 3


class UserError(Exception):
    """A mistake that the user can mend: a flag, a config value, a file.

    The message is one line that names the value, what was expected and what to change.
    """


class Diverged(Exception):
    """The loss stopped being a finite number. The message is one line that names the step."""


def run_command(main: Callable[[], None]) -> None:
    """Parses the absl flags of this process, runs `main`, and exits.

    Raises SystemExit: 0 when done, `USER_ERROR` after printing one line for a wrong flag or a
    `UserError`, `DIVERGED` after a `Diverged`. Any other exception is a defect of ours and keeps
    its traceback.
    """
    app.run(lambda _: _exit_with(main), flags_parser=_parse_flags)


def _exit_with(main: Callable[[], None]) -> None:
    try:
        main()
    except UserError as error:
        _fail(error, USER_ERROR)
    except Diverged as error:
        _fail(error, DIVERGED)


def _parse_flags(argv: list[str]) -> list[str]:
    """Flags as absl parses them; whatever is wrong with one is one line and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
    # A config flag runs the experiment file and then sets one key at a time, so a mistake surfaces
    # as whatever was raised there: KeyError for an unknown key, TypeError for a value's type, ...
    except Exception as error:
        _fail(f"{_experiment_line(error)}{_message(error)}", USER_ERROR)
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}: every option is a flag, --name=value", USER_ERROR)
    # Libraries log each of their steps at level INFO; --verbosity=0 still shows it.
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING
    return rest


def _experiment_line(error: Exception) -> str:
    """`FILE, line N: ` where the error came out of an experiment's own code, else nothing."""
    if isinstance(error, UserError):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    return next(
        (
            f"{frame.filename}, line {frame.lineno}: "
            for frame in frames
            if frame.name == "get_config"
        ),
        "",
    )


def _message(error: Exception) -> str:
    # str() of a KeyError is the repr of its argument, quotes and escaped line ends included.
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _fail(error: Exception | str, code: int) -> None:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    sys.exit(code)
