"""Config keys that take several values, on the command line: text, split at commas."""

from typing import Any

from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser


def split(text: str) -> tuple[str, ...]:
    """Returns the parts between commas, without blanks around them; none of them is empty."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


class ListParser(tuple_parser.TupleParser):
    """Parser that evaluates nothing: 2024, True and (a) are text.

    That of ml_collections evaluates a literal and refuses two words.
    """

    def parse(self, argument: Any) -> tuple[str, ...]:
        """Returns the values in a flag's text."""
        return split(argument) if isinstance(argument, str) else super().parse(argument)


def register() -> None:
    """Makes config flags of this process use the parser."""
    config_flags.register_flag_parser_for_type(tuple, ListParser())
