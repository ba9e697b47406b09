"""Sections on context, heads and layers: from a tiny model of each kind to the page."""

import base64
import dataclasses
import json

import numpy as np
import pytest

from input_pipeline.tokenizers import CharTokenizer
from inspection import scores, views
from inspection.subject import Subject
from reporting import inside, inside_context, inside_heads, inside_layers
from reporting.inside_parts import Inside
from tests import browser
from tests.stages import CHANGED, TINY, T, V, init
from tests.test_accessibility import DRAWN, assert_accessible
from tests.vega_lite import assert_valid

TOKENIZER = CharTokenizer("\n &<abcdefg")
TEXT = np.random.default_rng(0).integers(0, V, 400)
MODELS = TINY | {"soft_cap": CHANGED["soft_cap"]}
NAMES = ("bigram", "self_attention", "gpt2", "soft_cap")
HOSTILE = "<img src=x onerror=alert(1)>"
VIEWS = ("context", "heads", "layers")


def subject_of(name):
    scale = 30.0 if name == "soft_cap" else 3.0
    return Subject(name, MODELS[name], init(name, scale), TOKENIZER, T, TEXT, TEXT)


@pytest.fixture(scope="module")
def insides():
    made = []
    for stage, name in enumerate(NAMES, start=1):
        subject = subject_of(name)
        found = scores.score(subject)
        asked = ("layers",) if name == "soft_cap" else VIEWS
        measured = {view: views.VIEWS[view](subject, found) for view in asked}
        content = json.loads(json.dumps(measured))
        made.append(Inside(name, stage, 1, "a text", 1.0, content))
    return made


@pytest.mark.long
def test_every_chart_is_valid(insides):
    assert_valid(figure.spec for made in inside.sections(insides) for figure in made.figures)


@pytest.mark.long
def test_context_says_how_many_tokens_are_enough(insides):
    (figure,) = inside_context.section(insides).figures
    assert figure.columns == ["run", "enough", "1", "2", "4", "5"]
    rows = {row[0]: row[1:] for row in figure.rows}
    assert rows["bigram"] == ["1", *["+0.000 ± 0.000"] * 4]
    view = insides[2].views["context"]
    close = [abs(x) <= inside_context.CLOSE or x < 0 for x in view["difference"]]
    assert rows["gpt2"][0] == str(view["lengths"][close.index(True)])
    assert rows["gpt2"][1].startswith(f"{view['difference'][0]:+.3f} ± ")


@pytest.mark.long
def test_heads_have_a_row_each_and_one_for_uniform_weights(insides):
    section = inside_heads.section(insides[:3])
    assert section.left_out == ["bigram is left out of the heads: it has no attention"]
    names = [row[0] for row in section.figures[0].rows]
    heads = [f"{layer}.{head}" for layer in (1, 2) for head in (1, 2, 3)]
    assert names == [
        *("self_attention 1.1", "self_attention uniform"),
        *(f"gpt2 {label}" for label in (*heads, "uniform")),
    ]
    score = insides[2].views["heads"]["heads"][4]
    row = section.figures[0].rows[names.index("gpt2 2.2")]
    assert row[1] == f"{score['previous']:.2f}"
    assert row[5] == f"{score['spectrum'][0]:.2f}"
    (row,) = (row for row in section.figures[1].rows if row[0] == "gpt2 2.2")
    assert row[-1] == f"{score['cost']:+.3f} ± {score['cost_error']:.3f}"
    assert inside_heads.section(insides[:1]) is None


@pytest.mark.long
def test_a_model_whose_heads_are_not_switched_off_has_the_rest(insides):
    large = json.loads(json.dumps(insides[2].views))
    for head in large["heads"]["heads"]:
        head |= {"cost": None, "cost_error": None}
    section = inside_heads.section([insides[1], dataclasses.replace(insides[2], views=large)])
    assert section.left_out == [
        "gpt2 is left out of what each head buys: switching off its 6 heads in turn would take too "
        "long"
    ]
    assert [row[0] for row in section.figures[1].rows] == ["self_attention 1.1"]
    assert "gpt2 2.2" in [row[0] for row in section.figures[0].rows]
    (figure,) = inside_heads.section([dataclasses.replace(insides[2], views=large)]).figures
    assert_valid([figure.spec])


@pytest.mark.long
def test_layers_leave_out_what_a_model_does_not_have(insides):
    section = inside_layers.section(insides)
    assert section.left_out == [
        "bigram is left out of the layers: it has no attention",
        "self_attention is left out of the logit lens: it has no residual stream",
        "soft_cap is left out of the sum of logits: its head is not linear",
    ]
    assert list(section.data["guesses"]) == ["gpt2", "soft_cap"]
    assert list(section.data["terms"]) == ["self_attention", "gpt2"]
    assert list(section.data["patches"]) == ["self_attention", "gpt2", "soft_cap"]
    assert inside_layers.section(insides[:1]) is None


@pytest.mark.long
def test_the_last_guess_of_the_lens_is_the_model_s(insides):
    subject = subject_of("gpt2")
    shown = subject.tokens[subject.passage][: T + 1]
    logits = subject.model.apply({"params": subject.params}, shown[None, :-1])[0]
    expected = [inside_layers.visible(TOKENIZER.decode([token])) for token in logits.argmax(-1)]
    grid = inside_layers.section(insides).data["guesses"]["gpt2"]
    name, _, cells = grid["rows"][-1]
    assert name == "block 2 MLP"
    assert [cell[0] for cell in cells] == expected
    text = [inside_layers.visible(TOKENIZER.decode([token])) for token in shown]
    assert [[cell[0] for cell in cells] for _, cells in grid["heads"]] == [text[:-1], text[1:]]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (2.0, ["2.0", "0.50", "+2.000", ""]),
        (-5.0, ["-5.0", "1.00", "-5.000", "negative"]),
        (-0.04, ["0", "0.01", "-0.040", "negative"]),
    ],
)
def test_a_cell_is_shaded_by_its_share(value, cell):
    assert inside_layers.shaded(value, 4.0) == cell


@pytest.mark.slow
class TestPage:
    __test__ = browser.is_wanted()

    @pytest.fixture(scope="class")
    def page(self, insides, tmp_path_factory):
        path = tmp_path_factory.mktemp("page") / "inside.html"
        path.write_text(inside.render(insides))
        return path

    @pytest.mark.long
    def test_axe_finds_nothing_and_no_label_is_cut(self, page):
        assert_accessible(page)

    @pytest.mark.long
    def test_the_pointer_and_the_keys_show_the_weights_from_a_character(self, page, insides):
        view = insides[2].views["heads"]
        bytes_of_head = list(base64.b64decode(view["weights"][1][2]))

        def assert_shown(opened, place):
            row = opened.locator("#heads-weights tr").nth(5)  # Head 2.3.
            shades = [
                float(cell.evaluate("cell => cell.style.getPropertyValue('--shade')"))
                for cell in row.locator(".weight").all()
            ]
            begin = place * (place + 1) // 2
            weights = bytes_of_head[begin : begin + place + 1]
            assert shades == pytest.approx([*(x / 255 for x in weights), *[0] * (T - 1 - place)])
            pressed = opened.locator("#heads-text [aria-pressed=true]")
            assert pressed.count() == 1

        with browser.launch() as chromium, browser.open_file(chromium, page) as opened:
            # The run of the last stage is shown first.
            assert opened.locator("#heads-weights tr").count() == 6
            opened.locator("input[value=self_attention]").check(force=True)
            assert opened.locator("#heads-weights tr").count() == 1
            opened.locator("input[value=gpt2]").check(force=True)
            opened.locator("#heads-text button").nth(2).hover()
            assert_shown(opened, 2)
            opened.locator("#heads-text button").nth(2).press("ArrowRight")
            assert_shown(opened, 3)
            opened.keyboard.press("Home")
            assert_shown(opened, 0)

    @pytest.mark.long
    def test_hostile_names_and_tokens_stay_text(self, insides, tmp_path):
        text = json.dumps([insides[2].views]).replace('"<"', json.dumps(HOSTILE))
        (views,) = json.loads(text)
        bad = [Inside(HOSTILE, 1, 1, HOSTILE, 1.0, views)]
        path = tmp_path / "bad.html"
        path.write_text(inside.render(bad, [HOSTILE]))
        with browser.launch() as chromium, browser.open_file(chromium, path) as opened:
            opened.wait_for_function(DRAWN)
            assert opened.locator("img").count() == 0
            assert "onerror" in opened.locator("#heads-text").inner_text()
            assert "onerror" in opened.locator("#layers").inner_text()
