"""Passes on what native libraries write to standard error, and makes one line of JAX's last words.

    python native_log.py MESSAGE < PIPE

Where JAX's runtime loses the other processes, it ends its own by a stack trace of C++, which Python
can't prevent. This filter outlives it: MESSAGE takes the place of the trace, unless Python has
written a line of its own.
"""

import re
import sys

# The first line of JAX's last words; what follows is of a process that is ending.
LAST_WORDS = re.compile(r"[EF]\d{4} .*(coordination_service|client\.h:)")


def main(message: str) -> None:
    """Filters lines until the pipe is closed."""
    is_ending = has_said = False
    for line in sys.stdin:
        is_ending |= bool(LAST_WORDS.match(line))
        is_own = line.startswith("error: ")
        has_said |= is_own
        if is_own or not is_ending:
            print(line, end="", flush=True)
    if is_ending and not has_said:
        print(message, flush=True)


if __name__ == "__main__":
    # Ctrl-C reaches every process of the terminal; this one ends with the pipe.
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    main(sys.argv[1])
