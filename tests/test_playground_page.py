"""The page of playground.py as people use it: by keyboard, by mouse, on a phone, in the dark."""

import re
from itertools import product

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from scipy.special import log_softmax

import harness
from experiments import default
from tests import browser
from tests.command import run
from tests.playground_runs import write_run, write_text

# Everything that a key can reach, in the order of the page; one radio stands for its group.
REACHABLE = """() => [...document.querySelectorAll(
  'button, input, textarea, select, summary, a[href], [tabindex="0"]')].filter((one) =>
  one.checkVisibility() && !one.disabled && !(one.type === 'radio' && !one.checked)).length"""
FOCUSED = """() => {
  const one = document.activeElement;
  one.dataset.reached = true;
  return document.querySelectorAll('[data-reached]').length;
}"""
WIDTH = "() => document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five runs with large random weights, and the page of them."""
    folder = tmp_path_factory.mktemp("played")
    write_text(folder / "text.txt")
    for stage in default.LADDER:
        write_run(folder / stage, f"{stage}:smoke", folder / "text.txt")
    result = run("playground.py", folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"page: {folder / 'playground.html'}, ")
    return folder


@pytest.fixture(scope="module")
def chromium():
    with browser.launch() as chromium:
        yield chromium


@pytest.fixture
def opened(folder, chromium):
    with browser.open_file(chromium, folder / "playground.html") as opened:
        opened.wait_for_selector("body[data-ready]")
        yield opened


def start(opened, **fields):
    """Fills fields of the form and presses Run, by keyboard."""
    fields = {"temperature": "0", "count": "20", **fields}
    for name, value in fields.items():
        opened.locator(f"#{name}").fill(value)
    opened.locator("#run").press("Enter")


def written(opened):
    """Returns the texts after all are written."""
    opened.locator("#continue-notes", has_text="Done.").wait_for()
    # The last words are drawn in the next frame.
    opened.evaluate("() => new Promise(requestAnimationFrame)")
    return opened.locator("#continuations pre").all_inner_texts()


def losses(opened):
    return opened.locator("#look-guesses small:first-of-type").all_inner_texts()


@pytest.mark.slow
class TestPage:
    __test__ = browser.is_wanted()

    @pytest.mark.long
    def test_the_bars_are_what_jax_expects(self, folder, opened):
        passage = opened.evaluate("() => data.passages[0]")
        text = opened.locator("#look-text")
        text.press("Home")
        for _ in range(6):
            text.press("ArrowRight")
        next_one = passage[7].replace(" ", "␣").replace("\n", "⏎")
        opened.locator("#look-place", has_text=f"comes {next_one}").wait_for()
        opened.wait_for_timeout(300)
        for place, stage in enumerate(default.LADDER):
            trained = harness.open_run(folder / stage)
            log_p_V = log_softmax(np.asarray(trained.logits(passage[:7])[-1], float))
            best = np.argsort(-log_p_V)[:8]
            table = opened.locator("#look-guesses table").nth(place)
            shown = dict(
                zip(
                    table.locator("th").all_inner_texts(),
                    table.locator("tr:not(:has-text('the next')) .number").all_inner_texts(),
                    strict=False,
                )
            )
            for token in best[:3]:
                piece = trained.tokenizer.decode([token]).replace(" ", "␣").replace("\n", "⏎")
                percent = 100 * np.exp(log_p_V[token])
                assert float(shown[piece].split()[0]) == pytest.approx(percent, abs=0.51)

    @pytest.mark.long
    def test_the_cursor_moves_by_keys_and_by_touch(self, opened):
        text = opened.locator("#look-text")
        places = []
        for key in ("Home", "ArrowDown", "ArrowUp", "End", "ArrowRight", "ArrowLeft"):
            text.press(key)
            places.append(int(opened.locator("#look-text .current").get_attribute("data-i")))
            assert text.get_attribute("aria-valuenow") == str(places[-1])
        first, down, up, last, after, before = places
        assert (first, up) == (0, 0)
        assert first < down < last
        assert (after, before) == (last, last - 1)
        opened.locator("#look-text span").nth(9).hover()
        assert opened.locator("#look-text .current").get_attribute("data-i") == "9"

    @pytest.mark.long
    def test_a_switch_changes_the_loss_and_the_continuation_of_its_model_alone(self, opened):
        start(opened)
        texts, whole = written(opened), losses(opened)
        switch = opened.locator("#look-heads .switch").first
        assert switch.get_attribute("aria-pressed") == "true"
        switch.press("Space")
        assert switch.get_attribute("aria-pressed") == "false"
        changed = written(opened)
        assert changed[:-1] == texts[:-1]
        assert changed[-1] != texts[-1]
        opened.locator("#look-loss", has_text=f"{default.LADDER[-1]}: ").wait_for()
        now = losses(opened)
        assert now[:-1] == whole[:-1]
        before, (after, difference) = (
            [float(x) for x in re.findall(r"[+-]?\d+\.\d+", line.replace("−", "-"))]
            for line in (whole[-1], now[-1])
        )
        assert after - before[0] == pytest.approx(difference, abs=2e-3)
        assert difference != 0
        opened.get_by_role("button", name=re.compile("^All of")).press("Enter")
        assert written(opened) == texts
        opened.locator("#look-guesses small", has_text="(").wait_for(state="detached")
        assert losses(opened) == whole

    @pytest.mark.long
    def test_every_model_has_its_heads_and_mlps(self, folder, opened):
        for place, stage in enumerate(default.LADDER):
            opened.locator("#look-models input").nth(place).check(force=True)
            config = harness.open_run(folder / stage).config.model
            layers = config.num_layers or int(stage != "bigram")
            assert opened.locator("#look-heads .view").count() == layers * max(config.num_heads, 1)
            assert opened.locator("#look-heads .mlp").count() == config.num_layers

    @pytest.mark.long
    def test_the_same_seed_gives_the_same_text(self, opened):
        start(opened, temperature="1", seed="3")
        texts = written(opened)
        start(opened, seed="4", temperature="1")
        assert written(opened) != texts
        start(opened, seed="3", temperature="1")
        assert written(opened) == texts

    @pytest.mark.long
    def test_steps_make_a_text_that_a_run_makes_at_once(self, opened):
        start(opened, count="3", temperature="1")
        texts = written(opened)
        opened.locator("#prompt").fill("ROMEO: ")
        opened.locator("#prompt").fill(opened.evaluate("() => data.prompt"))
        opened.locator("#seed").fill("1")
        opened.locator("#step").press("Enter")
        written(opened)
        opened.locator("#seed").fill("0")
        for _ in range(3):
            opened.locator("#step").press("Enter")
            made = written(opened)
        assert made == texts

    @pytest.mark.long
    def test_stop_ends_all_texts(self, opened):
        start(opened, count="5000")
        opened.locator("#continuations pre").first.filter(has_text=re.compile(".{9}")).wait_for()
        opened.locator("#stop").press("Enter")
        texts = written(opened)
        assert max(map(len, texts)) < 5000
        opened.wait_for_timeout(200)
        assert opened.locator("#continuations pre").all_inner_texts() == texts

    @pytest.mark.long
    def test_what_a_model_does_not_know_is_named_and_left_out(self, opened):
        start(opened, prompt="RO\N{LATIN SMALL LETTER E WITH ACUTE}MEO\N{GRINNING FACE}:")
        with_unknown = written(opened)
        notes = opened.locator("#continue-notes").inner_text()
        for name in default.LADDER:
            assert name in notes
        assert notes.startswith("\N{LATIN SMALL LETTER E WITH ACUTE} \N{GRINNING FACE} left out")
        start(opened, prompt="ROMEO:")
        for text, other in zip(written(opened), with_unknown, strict=True):
            assert text[len("ROMEO:") :] == other[len("ROéMEO😀:") :]
        assert opened.locator("#continue-notes").inner_text() == "Done."
        start(opened, prompt="\N{GRINNING FACE}")
        written(opened)
        assert "Nothing to continue for" in opened.locator("#continue-notes").inner_text()
        opened.locator("#continuations button").first.press("Enter")
        opened.locator("#look-guesses", has_text="needs a longer text").wait_for()
        assert not any("nats" in loss for loss in losses(opened))

    @pytest.mark.long
    @pytest.mark.parametrize(("name", "value"), [("top_k", "-1"), ("count", "0"), ("seed", "-3")])
    def test_a_wrong_number_starts_nothing(self, opened, name, value):
        start(opened, **{name: value})
        assert opened.locator(f"#{name}:invalid").count() == 1
        assert opened.locator("#continue-notes").inner_text() == ""

    @pytest.mark.long
    def test_a_written_text_can_be_looked_at(self, opened):
        looking = opened.locator("#continuations button")
        assert looking.nth(2).is_disabled()  # There is no text yet.
        start(opened)
        texts = written(opened)
        looking.nth(2).press("Enter")
        opened.locator("#look-source", has_text=default.LADDER[2]).wait_for()
        shown = opened.locator("#look-text").inner_text().replace("⏎\n", "\n").replace("⏎", "\n")
        assert shown.replace("␣", " ").strip() == texts[2].strip()

    @pytest.mark.long
    def test_the_code_that_runs_is_shown(self, opened):
        opened.locator("#code summary", has_text="models/self_attention.js").press("Enter")
        opened.locator("#code pre", has_text="function causalAttention(").wait_for()

    @pytest.mark.long
    def test_every_control_is_reached_by_tab(self, opened):
        opened.locator("#prompt").focus()
        reachable = opened.evaluate(REACHABLE)
        for _ in range(reachable + 3):
            reached = opened.evaluate(FOCUSED)
            opened.keyboard.press("Tab")
        # The page itself has the focus between the last and the first.
        assert reached >= reachable, (reached, reachable)

    @pytest.mark.long
    @pytest.mark.parametrize(("width", "scheme"), product((1280, 390), ("light", "dark")))
    def test_axe_finds_nothing_and_nothing_is_too_wide(self, folder, chromium, width, scheme):
        screen = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        with browser.open_file(chromium, folder / "playground.html", **screen) as opened:
            opened.wait_for_selector("body[data-ready]")
            start(opened)
            written(opened)
            opened.locator("#look-heads .switch").first.click()
            opened.locator("#code summary").first.click()
            found = Axe().run(opened)
            assert found.violations_count == 0, found.generate_report()
            assert opened.evaluate(WIDTH) == width
