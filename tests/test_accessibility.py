"""The report's page for everybody: axe-core finds nothing, and no label of a chart is cut off."""

from itertools import product

import pytest
from axe_playwright_python.sync_playwright import Axe

from reporting import page, runs, sweep_charts, sweeps
from tests import browser
from tests.test_report import write_ladder
from tests.test_sweep_report import five_stages, write_sweep

# Texts of charts, and parts of them, outside of what their chart shows.
CUT = """[...document.querySelectorAll('.chart svg')].flatMap((svg) => {
  const chart = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter((text) => {
    const box = text.getBoundingClientRect();
    const shown = Number(getComputedStyle(text).opacity) && box.width;
    return shown && (box.left < chart.left - 1 || box.right > chart.right + 1
      || box.top < chart.top - 1 || box.bottom > chart.bottom + 1);
  }).map((text) => text.textContent);
})"""

LONG_NAME = "gpt2-with-rotary-positions-grouped-heads-and-a-gated-mlp"
# A chart has been drawn again. One with an axis for each setting keeps its width, and scrolls.
NARROW = """document.documentElement.scrollWidth === 390 && [...document.querySelectorAll(
  '.chart svg')].some((chart) => chart.getBoundingClientRect().width < 390)"""
DRAWN = "[...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('svg'))"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Returns the pages of a ladder and of a sweep, by name."""
    folder = tmp_path_factory.mktemp("pages")
    write_ladder(folder / "ladder")
    (folder / "ladder/gpt2").rename(folder / "ladder" / LONG_NAME)
    points = [{**point, "config.model.embed_dim": 8 * point["stage"]} for point in five_stages()]
    write_sweep(folder / "sweep", points)
    made = {}
    for name in ("ladder", "sweep"):
        found, unread = runs.read_runs([folder / name])
        swept = [(one, sweep_charts.charts(one)) for one in sweeps.find(found)]
        made[name] = folder / f"{name}.html"
        made[name].write_text(page.render(found, swept, unread))
    return made


def assert_accessible(path):
    """A page, wide and narrow, light and dark: axe is silent, nothing is cut or too wide."""
    with browser.launch() as chromium:
        for width, scheme in product((1280, 390), ("light", "dark")):
            screen = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            with browser.open_file(chromium, path, **screen) as opened:
                opened.wait_for_function(DRAWN)
                found = Axe().run(opened)
                assert found.violations_count == 0, found.generate_report()
                assert opened.evaluate(CUT) == []
                assert opened.evaluate("document.documentElement.scrollWidth") == width
                opened.set_viewport_size({"width": 390, "height": 900})  # A window made narrow.
                opened.wait_for_function(f"{NARROW} && {CUT}.length === 0")


class TestPage:
    __test__ = browser.is_wanted()

    @pytest.mark.long
    @pytest.mark.parametrize("name", ["ladder", "sweep"])
    def test_axe_finds_nothing_and_no_label_is_cut(self, pages, name):
        assert_accessible(pages[name])
