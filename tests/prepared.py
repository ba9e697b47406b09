"""Runs prepare.py."""

from tests.command import run


def prepare(source, output, *flags, **environment):
    """Returns the ended process."""
    given = [f"--input={source}", f"--output={output}", "--workers=2", *flags]
    return run("prepare.py", *given, **environment)
