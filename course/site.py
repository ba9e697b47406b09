"""Sphinx extension of the site: fills pages with measured numbers before Sphinx reads them.

Inline code that begins with "= " is an expression: `= loss("heads", run="gpt2*num_heads=4")`, with
the functions of course/measured.py. Statements are comments: `<!--% if ... %-->`. So GitHub shows
an expression as code and no statement, and braces remain free for formulas. Other code is left as
it stands. A number that is typed into a page of the course, where one was measured, is an error.
"""

import re
import shutil
import traceback
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from sphinx.application import Sphinx
from sphinx.util import logging

from course import formulas, measured, prose, source_pages, stages

STATIC = Path(__file__).parent / "static"
# Pages of the course; in the others, tests compare the numbers with those that were measured.
PAGES = ("index", "how_to/*", "stages/*")
# The file of playground.py, in the runs and on the site, where playground.html is about it.
PLAYGROUND, COPY = "playground.html", "ladder/playground.html"
# Markup of Sphinx and of the theme, and what serves readers without a mouse or without sight.
MENDED = {
    # The keyboard scrolls what is wider than the page.
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Site">',
    '<th class="head"><p></p></th>': "<td></td>",
}
log = logging.getLogger(__name__)


class PageError(Exception):
    """An error in an expression of a page, with its line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers what Sphinx calls."""
    app.add_config_value("course_runs", "runs/ladder", "html", str)
    app.connect("builder-inited", _start)
    app.connect("build-finished", _make_accessible)
    app.connect("build-finished", _copy_playground)
    formulas.setup(app)
    source_pages.setup(app)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def environment(root: Path, **values: Any) -> jinja2.Environment:
    """Returns the template language of pages, with the functions that they may call."""
    made = jinja2.Environment(
        variable_start_string=prose.EXPRESSION,
        variable_end_string="`",
        block_start_string="<!--%",
        block_end_string="%-->",
        comment_start_string="<!--#",
        comment_end_string="#-->",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=measured.shown,
    )
    made.globals.update(measured.functions(root) | stages.functions(root), **values)
    made.filters.update(measured.FILTERS)
    return made


def fill(page: str, language: jinja2.Environment) -> str:
    """Returns a page with its measured numbers.

    Raises PageError with the line in the page and what is wrong in it.
    """
    codes: list[str] = []

    def hide(found: re.Match[str]) -> str:
        codes.append(found[0])
        # Ends of lines stay, so that the lines of errors are those of the page.
        return f"\0{len(codes) - 1}\0{prose.blank(found)}\0"

    def show(found: re.Match[str]) -> str:
        return codes[int(found[1])]

    try:
        filled = language.from_string(prose.replace_code(page, hide)).render()
    except jinja2.TemplateSyntaxError as error:
        raise PageError(error.lineno, str(error.message)) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
        raise PageError(lines[-1] or 1, str(error)) from error
    return re.sub(r"\0(\d+)\0\n*\0", show, filled)


def _root(app: Sphinx) -> Path:
    return Path(app.srcdir).parent


def _playground(app: Sphinx) -> Path | None:
    """Returns the page with the ladder's models, if there is one."""
    page = _root(app) / app.config.course_runs / PLAYGROUND
    return page if page.is_file() else None


def _pages(folder: Path, pattern: str) -> str:
    """Returns the names of pages for a table of contents: a toctree fails if a pattern has none."""
    found = sorted(folder.glob(f"{pattern}.md"))
    return "\n".join(path.relative_to(folder).with_suffix("").as_posix() for path in found)


def _start(app: Sphinx) -> None:
    """Makes the template language when the settings are known."""
    language = environment(
        _root(app),
        pages=partial(_pages, Path(app.srcdir)),
        playground=COPY if _playground(app) else "",
    )
    app.connect("source-read", partial(_read, language=language))


def _read(app: Sphinx, name: str, content: list[str], language: jinja2.Environment) -> None:
    """Fills a page in; warns of what is wrong, and of numbers typed in a page of the course."""

    def warn(line: int, message: str) -> None:
        log.warning("%s", message, location=(name, line), type="course")

    if any(fnmatchcase(name, pattern) for pattern in PAGES):
        for line, number in prose.typed_numbers(content[0]):
            warn(line, f"{number} is typed: expected a measured number, `= loss(...)`, or code")
    try:
        content[0] = fill(content[0], language)
    except PageError as error:
        warn(error.line, str(error))


def _make_accessible(app: Sphinx, error: Exception | None) -> None:
    """Mends the markup of the written pages."""
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        for found, better in MENDED.items():
            page = page.replace(found, better)
        path.write_text(page, encoding="utf-8")


def _copy_playground(app: Sphinx, error: Exception | None) -> None:
    page = _playground(app)
    if page and not error:
        (Path(app.outdir) / COPY).parent.mkdir(exist_ok=True)
        shutil.copyfile(page, Path(app.outdir) / COPY)
