"""Text for a terminal: first lines, escaped untrusted text (generated, names, flags), durations."""

import sys


def announce(what: str) -> None:
    """Prints what a command begins with, if someone waits at a terminal: imports take seconds."""
    if sys.stderr.isatty():
        print(escape_controls(what), file=sys.stderr, flush=True)


def escape_controls(text: str, keep: str = "") -> str:
    """Returns `text` with unprintable characters as backslash escapes, except those in `keep`.

    Escape sequences could steer the terminal or imitate other output.
    """
    return "".join(
        char
        if char.isprintable() or char in keep
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def format_seconds(seconds: float) -> str:
    """Returns a duration as 0:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
