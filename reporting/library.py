"""Vega, Vega-Lite and Vega-Embed as one script for the page, bundled once on a machine."""

import contextlib
import importlib.metadata

import vl_convert

from reporting.charts import VEGA_LITE
from runtime import process
from runtime.files import atomic_write


def script() -> str:
    """Returns the script, in the version that Altair writes for; it sets window.vegaEmbed."""
    bundler = importlib.metadata.version("vl-convert-python")
    path = process.cache_dir() / f"vega-lite-{VEGA_LITE}-by-vl-convert-{bundler}.js"
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    # Takes 3 seconds of processor time, more than the rest of a small page.
    bundled = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", VEGA_LITE)
    with contextlib.suppress(OSError):  # A home that can't be written to.
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(bundled.encode())
    return bundled
