"""Escaping of untrusted text for a terminal: generated text, names of files, values of flags."""


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
