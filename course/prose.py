"""Pages of the course apart: what is code, what is a formula, and what is text."""

import re
from collections.abc import Callable

# Code fences: as long a fence ends one. {name} begins a directive, whose content is text, except
# for those of code.
FENCE = re.compile(
    r"^(?P<first>(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)\n)(?P<content>.*?)"
    r"^(?P<last>(?P=indent)(?P=fence)[`~]*[ \t]*)$",
    re.MULTILINE | re.DOTALL,
)
DIRECTIVES_OF_TEXT = re.compile(r"\s*\{(?!code|literalinclude|math|include)")
# A line of spaces ends a paragraph, and with it what looks like code.
INLINE = re.compile(
    r"(?<!`)(?P<ticks>`{1,2})(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)", re.DOTALL
)
FORMULA = re.compile(
    r"(?<![\\$])(?:\$\$(?:(?!\n\s*\n).)+?\$\$|\$(?![\s$])[^$\n]+?(?<![\s\\])\$(?!\d))", re.DOTALL
)
# An inline code that begins with it is filled in by the build.
EXPRESSION = "`= "
# A target of a link, an address, a comment.
UNSEEN = re.compile(r"(?<=\])\([^)\s]*(?: \"[^\"]*\")?\)|<https?://[^>]*>|<!--.*?-->", re.DOTALL)
# Versions of software, and numbers of exercises and of a paper's sections, are names.
NAMES = re.compile(
    r"\b(?:Python|JAX|Flax|CUDA|Chrome|Firefox|Safari|version|[Ee]xercises?|[Ss]ections?)"
    r"\s+\d+(?:\.\d+)*(?:(?:,|,?\s+and|,?\s+or|\s+to)\s+\d+(?:\.\d+)*)*"
)
DECIMAL = re.compile(r"(?<![\w.])[-+]?\d[\d,]*\.\d+")


def blank(found: re.Match[str]) -> str:
    """Returns what a match leaves of its lines: their ends."""
    return "\n" * found[0].count("\n")


def replace_code(page: str, replace: Callable[[re.Match[str]], str]) -> str:
    """Replaces the code fences and the inline code of a page, but for expressions."""

    def fenced(found: re.Match[str]) -> str:
        if not DIRECTIVES_OF_TEXT.match(found["info"]):
            return replace(found)
        return found["first"] + FENCE.sub(fenced, found["content"]) + found["last"]

    def inline(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith(EXPRESSION) else replace(found)

    return INLINE.sub(inline, FENCE.sub(fenced, page))


def typed_numbers(page: str) -> list[tuple[int, str]]:
    """Returns (line, number) of each decimal in the text of a page.

    Code, expressions, formulas, addresses and versions do not count.
    """
    text = INLINE.sub(blank, replace_code(page, blank))
    for pattern in (FORMULA, UNSEEN, NAMES):
        text = pattern.sub(blank, text)
    lines = enumerate(text.split("\n"), start=1)
    return [(number, found[0]) for number, line in lines for found in DECIMAL.finditer(line)]
