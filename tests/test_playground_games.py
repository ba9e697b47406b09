"""Games of the playground, played by keyboard in its page, and scored again here, with JAX."""

import re
from contextlib import contextmanager
from itertools import product
from math import inf, log2
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from input_pipeline.tokenizers import CharTokenizer
from playground_page import page
from reporting.runs import Run
from tests import browser
from tests.stages import TINY

# Texts and names try to be markup. Every text of a game fits into the context, so that JAX reads it
# at once.
HOSTILE = "<img src=x onerror=alert(1)>"
TOKENIZER = CharTokenizer("".join(sorted({"\n", *HOSTILE})))
T = 512
MODELS = {
    name: model.clone(
        vocab_size=TOKENIZER.vocab_size, **({} if name == "bigram" else {"context_length": T})
    )
    for name, model in TINY.items()
}
# Weights so large that the models differ and heads matter, and no probability is 0 in float32.
SCALES = {"bigram": 4, "gpt2": 4}


def init(name):
    params = MODELS[name].init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: SCALES.get(name, 2) * leaf, params)


PARAMS = {name: init(name) for name in MODELS}
NAMES = [f"{name} {HOSTILE}" for name in MODELS]
HEADS = [(layer, head) for layer in (1, 2) for head in (1, 2, 3)]


def text_of_split():
    """Returns characters at random, and the markup again and again."""
    rng = np.random.default_rng(0)
    parts = ["".join(rng.choice(list(TOKENIZER.vocabulary), 20)) + HOSTILE for _ in range(12)]
    return "".join(parts)


def write_page(path, names, held_out):
    made = []
    for name in names:
        run = Run(f"{name} {HOSTILE}", Path(), {}, {}, {}, [], [], None)
        model = MODELS[name]
        options = dict(notes=HOSTILE, context_length=T, held_out=held_out, dtype="float32")
        made.append(page.entry(run, model, PARAMS[name], TOKENIZER, **options))
    path.write_text(page.render(made, []), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def playground(tmp_path_factory):
    path = tmp_path_factory.mktemp("playground") / "page.html"
    return write_page(path, MODELS, TOKENIZER.encode(text_of_split()))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Returns a page of one model without heads, and without held-out text."""
    return write_page(tmp_path_factory.mktemp("bare") / "page.html", ["bigram"], None)


@pytest.fixture(scope="module")
def chromium():
    with browser.launch() as launched:
        yield launched


@contextmanager
def opened(chromium, path, **screen):
    """Opens a page whose random numbers are all 0.5. No markup in its texts may come alive."""
    with browser.open_file(chromium, path, **screen) as shown:
        shown.wait_for_selector("body[data-ready=true]")
        shown.evaluate("random = () => 0.5")
        yield shown
        assert shown.locator("img").count() == 0


def press(shown, selector, key="Enter"):
    shown.locator(selector).focus()
    shown.keyboard.press(key)


def until(shown, selector, pattern):
    """Waits for a text, and returns the match."""
    from playwright.sync_api import expect

    expect(shown.locator(selector)).to_have_text(re.compile(pattern))
    return re.search(pattern, shown.locator(selector).inner_text())


def cells(shown, table):
    """Returns the texts of a table's body, row by row."""
    shown.wait_for_selector(f"{table} tbody tr")
    rows = shown.locator(f"{table} tbody tr").all()
    return [[text.strip() for text in row.locator("th, td").all_inner_texts()] for row in rows]


def log_p(name, text, params=None):
    """Returns the log probabilities of the next character after each of a text, by JAX."""
    tokens = jnp.asarray(TOKENIZER.encode(text)[None])
    logits = MODELS[name].apply({"params": params or PARAMS[name]}, tokens)[0]
    return np.asarray(jax.nn.log_softmax(logits), np.float64)


def nats(name, text, params=None):
    """Returns the nats of each character of a text after its first."""
    tokens = TOKENIZER.encode(text)
    return -log_p(name, text, params)[np.arange(len(tokens) - 1), tokens[1:]]


def bits_by_guesses(played):
    """Returns the bits a character of (guesses, characters left after more than five guesses)."""
    total = 0.0
    for n, (guesses, left) in enumerate(played):
        before = [min(earlier, 6) for earlier, _ in played[:n]]
        belief = 4 / (guesses * (guesses + 1)) if guesses <= 5 else 4 / 6
        p = (before.count(min(guesses, 6)) + belief) / (n + 4)
        total -= log2(p if guesses <= 5 else p / left)
    return total / len(played)


def play_shannon(shown, text, places):
    """Plays a round: no wrong guess, one, two ... five, a skip, and so on. Returns it as played."""
    played = []
    for place in places:
        others = [one for one in TOKENIZER.vocabulary if one != text[place]]
        gives_up = place % 7 == 6
        wrong = others[: place % 7] if not gives_up else others[:2]
        for guess in wrong:
            shown.keyboard.type(guess)
        if gives_up:
            for key in ["Tab"] * 3 + ["Enter"] + ["Shift+Tab"] * 3:
                shown.keyboard.press(key)
        elif len(wrong) < 5:
            shown.keyboard.type(text[place])
        is_missed = gives_up or len(wrong) == 5
        played.append((inf if is_missed else len(wrong) + 1, len(others) + 1 - len(wrong)))
    return played


@pytest.mark.slow
class TestGames:
    __test__ = browser.is_wanted()

    @pytest.mark.long
    def test_probabilities_of_guesses_add_up_to_one(self, chromium, playground):
        sums = """[[0, 0, 0, 0, 0, 0], [5, 2, 0, 1, 0, 3], [0, 0, 0, 0, 0, 9]].map((counts) =>
            [1, 2, 3, 4, 5].reduce((sum, guesses) => sum + 2 ** -guessBits(counts, guesses, 60),
                                   60 * 2 ** -guessBits(counts, 6, 60)))"""
        with opened(chromium, playground) as shown:
            np.testing.assert_allclose(shown.evaluate(sums), 1)

    @pytest.mark.long
    def test_guesses_are_scored_as_those_of_the_models(self, chromium, playground):
        with opened(chromium, playground) as shown:
            text = shown.evaluate("data.passages[Math.floor(data.passages.length / 2)]")
            start = 60 + (len(text) - 20 - 60 + 1) // 2
            press(shown, "#shannon-begin")
            assert shown.locator("#shannon-text").inner_text() == f"{text[:start]}?"
            played = play_shannon(shown, text, range(start, start + 20))
            said = until(shown, "#shannon-result", r"round is over: you have (\S+) bits a char")
            revealed = text[start : start + 20].replace("\n", "⏎\n")
            shown_text = shown.evaluate("document.getElementById('shannon-text').textContent")
            assert shown_text == text[:start] + revealed
            you, *stages = cells(shown, "#shannon-score")
            expected = cells(shown, "#shannon-expected")
            shown.keyboard.type("a")
            until(shown, "#shannon-result", "^This round is over")
            assert [you, *stages] == cells(shown, "#shannon-score")
            press(shown, "#shannon-begin")
            until(shown, "#shannon-place", "^Character 1 of 20")
        own = bits_by_guesses(played)
        assert float(said[1]) == pytest.approx(own, abs=0.006)
        assert you == ["you", str([g for g, _ in played].count(1)), said[1], "–"]
        right = TOKENIZER.encode(text)[start : start + 20]
        for name, stage, last in zip(MODELS, stages, expected, strict=True):
            log_p_TV = log_p(name, text)[start - 1 : start + 19]
            p = log_p_TV[np.arange(20), right]
            ranks = [int((row > one).sum()) + 1 for row, one in zip(log_p_TV, p, strict=True)]
            guesses = bits_by_guesses([(rank, TOKENIZER.vocab_size - 5) for rank in ranks])
            assert stage[:2] == [f"{name} {HOSTILE}", str(ranks.count(1))]
            measured = [float(stage[2]), float(stage[3])]
            np.testing.assert_allclose(measured, [guesses, -p.mean() / np.log(2)], atol=0.006)
            best = TOKENIZER.vocabulary[log_p_TV[-1].argmax()].replace(" ", "␣").replace("\n", "⏎")
            assert last[1].startswith(f"{best} ") and last[3] == str(ranks[-1])
            assert float(last[2].rstrip(" %")) == pytest.approx(100 * np.exp(p[-1]), abs=0.51)

    def test_repeated_and_unknown_guesses_do_not_count(self, chromium, playground):
        with opened(chromium, playground) as shown:
            press(shown, "#shannon-begin")
            text = shown.evaluate("data.passages[Math.floor(data.passages.length / 2)]")
            right = text[len(shown.locator("#shannon-text").inner_text()) - 1]
            wrong = next(one for one in TOKENIZER.vocabulary if one not in (right, " ", "\n"))
            for key, answer in (
                (wrong, f"^Not “{re.escape(wrong)}”. 4 guesses left.$"),
                (wrong, "before: not counted.$"),
                ("Z", "^No model knows “Z”: not counted.$"),
            ):
                shown.keyboard.type(key)
                until(shown, "#shannon-result", answer)
            shown.keyboard.type(right)
            until(shown, "#shannon-result", "^Right: .*, at guess 2.$")

    @pytest.mark.long
    def test_writer_is_found_by_its_loss(self, chromium, playground):
        with opened(chromium, playground) as shown:
            rounds = []
            for number, (author, answer) in enumerate([(2, 1), (4, 4)], start=1):
                shown.evaluate(f"random = () => {(author + 0.5) / len(MODELS)}")
                press(shown, "#which-begin")
                until(shown, "#which-result", "^Which stage wrote this")
                text = shown.evaluate("document.getElementById('which-text').textContent")
                own = shown.evaluate(
                    """(model) => ask("write", { model, prompt: "\\n", count: 120, off: [],
                        sampling: { temperature: 0.8, top_k: 0, top_p: 1 },
                        seed: Math.floor(random() * 2 ** 32) })""",
                    author,
                )
                assert text == own and len(text) == 120
                press(shown, f"#which-answers button:nth-child({answer + 1})", "Space")
                verdict = "Right" if author == answer else "No"
                said = f"{verdict}: it was {NAMES[author]}. {number - 1} of {number} right so far."
                until(shown, "#which-result", f"^{re.escape(said)}$")
                rounds.append((author, text, cells(shown, "#which-losses")))
                press(shown, "#which-answers button:nth-child(1)")  # Once more: not counted.
                assert shown.locator("#which-result").inner_text() == said
        for author, text, losses in rounds:
            for m, (name, (label, _, loss)) in enumerate(zip(MODELS, losses, strict=True)):
                bits = nats(name, f"\n{text}").mean() / np.log(2)
                assert float(loss) == pytest.approx(bits, abs=0.006)
                assert label == NAMES[m] + (", who wrote it" if m == author else "")

    @pytest.mark.long
    def test_costs_are_those_of_heads_without_output(self, chromium, playground):
        with opened(chromium, playground) as shown:
            press(
                shown, "input[name=break-model]:checked", "ArrowLeft"
            )  # From the first to the last.
            press(shown, "#break-begin")
            text = shown.evaluate("document.getElementById('break-text').textContent")
            press(shown, "#break-heads .buttons:nth-child(2) button >> nth=0")
            said = until(shown, "#break-result", r"costs most\. .* number (\d) of 6\.$")
            bars = cells(shown, "#break-bars")
            loss = until(shown, "#break-bars caption", r"loss of (\S+) with all heads$")
            press(shown, "input[name=break-model]:checked", "ArrowRight")
            until(shown, "#break-result", "^Which head costs most")
            assert shown.locator("#break-heads button").count() == 3
        assert len(text) == 200
        whole = nats("gpt2", text).mean()
        costs = {}
        for layer, head in HEADS:
            params = jax.tree.map(jnp.copy, PARAMS["gpt2"])
            out = params[f"block_{layer - 1}"]["attention"]["out"]
            out["kernel"] = out["kernel"].at[4 * (head - 1) : 4 * head].set(0)
            costs[f"{layer}.{head}"] = nats("gpt2", text, params).mean() - whole
        order = sorted(costs, key=costs.__getitem__, reverse=True)
        rank = order.index("2.1") + 1
        assert float(loss[1]) == pytest.approx(whole, abs=0.002)
        assert [bar[0].removesuffix(", your guess") for bar in bars] == order
        assert bars[rank - 1][0] == "2.1, your guess" and int(said[1]) == rank
        assert said.string == (
            f"{'Right' if rank == 1 else 'No'}: {order[0]} costs most. "
            f"Your guess 2.1 is number {rank} of 6."
        )
        shown_costs = [float(bar[2].replace("−", "-")) for bar in bars]
        np.testing.assert_allclose(shown_costs, [costs[name] for name in order], atol=0.002)

    def test_what_is_missing_is_said(self, chromium, bare):
        with opened(chromium, bare) as shown:
            notes = shown.locator("section:has(> [id=break-title], > [id=shannon-title]) > .note")
            assert ["no held-out text" in note for note in notes.all_inner_texts()] == [True, True]
            # There is one model, so nobody has to guess who wrote a text.
            assert shown.locator("#which-title").count() == 0

    def test_nothing_is_computed_before_a_game_begins(self, chromium, playground):
        with opened(chromium, playground) as shown:
            for game in ("shannon", "which", "break"):
                assert shown.locator(f"#{game}-game").is_hidden()
            asked = """() => {
              const asked = [];
              ask = (...question) => asked.push(question);
              startGames();
              return asked;
            }"""
            assert shown.evaluate(asked) == []

    @pytest.mark.long
    def test_axe_finds_nothing_and_nothing_is_too_wide(self, chromium, playground):
        for width, scheme in product((1280, 390), ("light", "dark")):
            screen = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            with opened(chromium, playground, **screen) as shown:
                press(shown, "#shannon-begin")
                shown.keyboard.type("<x")
                press(shown, "#shannon-skip")
                press(shown, "#which-begin")
                until(shown, "#which-result", "^Which stage wrote this")
                press(shown, "#which-answers button:nth-child(1)")
                press(shown, "#break-begin")
                press(shown, "#break-heads button >> nth=0")
                for table in ("#shannon-score", "#which-losses", "#break-bars"):
                    assert cells(shown, table)
                games = [[f"section:has(#{game}-title)"] for game in ("shannon", "which", "break")]
                found = Axe().run(shown, {"include": games})
                assert found.violations_count == 0, found.generate_report()
                assert shown.evaluate("document.documentElement.scrollWidth") == width
