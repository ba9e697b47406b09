"""Drives an installed Chrome or Chromium, for tests of pages.

Where there is none, tests that need one are left out with a warning; with CI set in the
environment they run all the same, and fail. A test class asks for that with

    class TestPage:
        __test__ = browser.is_wanted()

`python tests/browser.py` prints which browser it would be, and fails if there is none.
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


def find() -> str | None:
    """The path of an installed browser."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def is_wanted() -> bool:
    """Whether tests that need a browser are to run."""
    if find() or os.environ.get("CI"):
        return True
    warnings.warn("no Chrome or Chromium is installed: tests of pages are left out", stacklevel=2)
    return False


@contextmanager
def launch() -> Iterator:
    """A running browser, without a window. Raises RuntimeError if none is installed."""
    program = find()
    if not program:
        raise RuntimeError(f"no browser is installed: expected one of {', '.join(PROGRAMS)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def open_file(browser, path: Path, **context) -> Iterator:
    """A page that shows a file with no network; `context` is what `browser.new_context` takes.

    Leaving fails the test if the page has reported an error, shown a dialog, or asked for
    anything but the file.
    """
    opened = browser.new_context(offline=True, **context)
    page = opened.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: problems.append(request.url))
    page.goto(path.as_uri())
    yield page
    opened.close()
    # Nor anything that it carries itself: data: is not the network.
    problems = [problem for problem in problems if not problem.startswith("data:")]
    assert problems == [path.as_uri()], problems


if __name__ == "__main__":
    print(find() or sys.exit("no Chrome or Chromium is installed"))
