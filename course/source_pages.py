"""Files of the repository as pages of the site: a link to `../models/gpt2.py` shows the code.

On GitHub the same link opens the file. A link to a folder shows the list of its files, each of
which is a page, too. Data (.json, .ipynb) is downloaded, as Sphinx does with any file.
"""

import html
import os
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder

# Suffixes of files that are shown, with the language of their colors.
LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".yaml": "yaml",
    ".md": "markdown",
    ".html": "html",
    ".in": "text",
}
FOLDER = "source"
INDEX = "index"


def setup(app: Sphinx) -> None:
    """Makes pages of the files that pages link to."""
    # Before Sphinx collects the files that it offers for download.
    app.connect("doctree-read", link, priority=400)
    app.connect("html-collect-pages", pages)


def root(app: Sphinx) -> Path:
    """Returns the folder of the repository, in which the folder of pages is."""
    return Path(app.srcdir).parent


def shown(app: Sphinx) -> set[Path]:
    """Returns the files and folders that are pages, kept from reading to writing."""
    env = app.env
    if not hasattr(env, "course_shown"):
        env.course_shown = set()
    return env.course_shown


def page_of(app: Sphinx, path: Path) -> str:
    """Returns the name of the page that shows a file or a folder."""
    relative = path.relative_to(root(app)).as_posix()
    return f"{FOLDER}/{relative}/{INDEX}" if path.is_dir() else f"{FOLDER}/{relative}"


def members(folder: Path) -> list[Path]:
    """Returns the files of a folder that can be shown."""
    return sorted(path for path in folder.iterdir() if path.suffix in LANGUAGES)


def link(app: Sphinx, doctree: nodes.document) -> None:
    """Points the links of a page to files and folders of the repository at the pages of those.

    Links to what does not exist are left to Sphinx, which warns.
    """
    name = app.env.docname
    for node in list(doctree.findall(lambda one: isinstance(one, nodes.Element))):
        is_link = isinstance(node, addnodes.download_reference | addnodes.pending_xref)
        if not is_link or node.get("reftype") != "myst":
            continue
        target = Path(app.env.doc2path(name)).parent / node["reftarget"]
        if node.get("refdomain") == "doc":  # A page, or a markdown file outside of the pages.
            target = Path(app.srcdir, f"{node['reftarget']}.md")
        target = Path(os.path.normpath(target))
        if target.is_relative_to(app.srcdir) or not target.is_relative_to(root(app)):
            continue
        if target.is_dir() or (target.is_file() and target.suffix in LANGUAGES):
            shown(app).update([target, *(members(target) if target.is_dir() else ())])
            address = app.builder.get_relative_uri(name, page_of(app, target))
            node.replace_self(nodes.reference("", "", *node.children, refuri=address))


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, object], str]]:
    """Yields (name, context, template) of each page that shows a file or a folder."""
    assert isinstance(app.builder, StandaloneHTMLBuilder)
    for path in sorted(shown(app)):
        title = path.relative_to(root(app)).as_posix()
        if path.is_dir():
            body = listing(path)
        else:
            text = path.read_text(encoding="utf-8")
            body = app.builder.highlighter.highlight_block(text, LANGUAGES[path.suffix])
        heading = f'<h1 class="file">{html.escape(title)}</h1>'
        yield page_of(app, path), {"title": title, "body": heading + body}, "page.html"


def listing(folder: Path) -> str:
    """Returns links to the pages of a folder's files."""
    names = [html.escape(path.name) for path in members(folder)]
    items = [f'<li><a href="{name}.html">{name}</a></li>' for name in names]
    return f"<ul>{''.join(items)}</ul>"
