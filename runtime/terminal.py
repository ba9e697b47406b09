"""Text that others wrote, shown to a person: what a model made, names of files, values of flags."""


def inert(text: str) -> str:
    """`text` with what could steer a terminal, or pretend to be other text, spelled out."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def inert_lines(text: str) -> str:
    """The same with line ends and tabs left as they are, for text that is shown as it is laid."""
    return "".join(char if char in "\n\t" else inert(char) for char in text)
