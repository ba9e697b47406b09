"""Fills the templates of pages: one HTML file each, which needs no network and no other file.

Run names, notes and samples may hold anything. Jinja escapes markup and `tojson` escapes data, the
scripts write texts only as text nodes, and a Content-Security-Policy allows a page's own scripts,
by their hashes, and no loading.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reporting import library

HERE = Path(__file__).parent


def fill(
    name: str, scripts: Sequence[str], folder: Path = HERE, worker: str = "", **values: Any
) -> str:
    """Returns a page from its template in frame.html, with the only scripts that it may run.

    The template may be in another `folder`, beside a page.css of its own. A page with a `worker`
    may start that script, which is in the page as text.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    styles = dict.fromkeys((HERE / "page.css", folder / "page.css"))
    return environment.get_template(name).render(
        policy=" ".join(f"'sha256-{base64.b64encode(x).decode()}'" for x in digests),
        style=Markup("\n".join(path.read_text(encoding="utf-8") for path in styles)),
        worker=Markup(worker),
        scripts=[Markup(script) for script in scripts],
        **values,
    )


def read(name: str) -> str:
    """Returns the text of a file of this package."""
    return (HERE / name).read_text(encoding="utf-8")


def chart_scripts() -> list[str]:
    """Returns the scripts with which a page draws charts, and saves them as files."""
    return [library.script(), read("downloads.js"), read("charts.js")]
