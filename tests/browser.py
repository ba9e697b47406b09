"""Drives an installed Chrome or Chromium, for tests of pages.

Without one, tests that need it are skipped with a warning, or fail if CI is set in the environment.
A test class asks for that with

    class TestPage:
        __test__ = browser.is_wanted()

`python tests/browser.py` prints the path of the browser, and fails if there is none.
"""

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
)
# Limit for all that a page does; most of it takes less than a second.
MILLISECONDS = 300_000


def find() -> str | None:
    """Returns the path of an installed browser, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def is_wanted() -> bool:
    """Returns True if tests that need a browser shall run; warns if not."""
    if find() or os.environ.get("CI"):
        return True
    warnings.warn("no Chrome or Chromium is installed: tests of pages are skipped", stacklevel=2)
    return False


@contextmanager
def launch() -> Iterator:
    """Starts a headless browser. Raises RuntimeError if none is installed."""
    program = find()
    if not program:
        raise RuntimeError(f"no browser is installed: expected one of {', '.join(PROGRAMS)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=ARGUMENTS, timeout=MILLISECONDS
        )
        yield browser
        browser.close()


@contextmanager
def open_file(browser, path: Path, script: str = "", **context) -> Iterator:
    """Opens a file without network; `context` goes to `browser.new_context`.

    A `script` runs before those of the page. On exit, raises AssertionError if the page has
    reported an error, shown a dialog, or requested anything but the file.
    """
    opened = browser.new_context(offline=True, **context)
    opened.set_default_timeout(MILLISECONDS)
    opened.add_init_script(script)
    page = opened.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: problems.append(request.url))
    page.goto(path.as_uri())
    yield page
    opened.close()
    # The page may load its own URLs, which need no network.
    problems = [problem for problem in problems if not problem.startswith(("data:", "blob:"))]
    assert problems == [path.as_uri()], problems


if __name__ == "__main__":
    print(find() or sys.exit("no Chrome or Chromium is installed"))
