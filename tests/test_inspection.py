"""look_inside.py: the account adds up, the passage is right, and the page is for everybody."""

import json
import math
import shutil
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest

import harness
import run_folder
from inspection import account, kinds, ngrams, scores, subject, yardstick
from reporting import inside, inside_account, inside_passage, inside_tokens, runs
from tests import browser
from tests.command import assert_refused
from tests.forked import run
from tests.test_accessibility import DRAWN, assert_accessible

FLAGS = {"tracking.wandb_mode": "disabled", "checkpoint.snapshots": 3}
HOSTILE = "</script><script>document.title='broken'</script>\u202e"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of two trained runs that look_inside.py looked into."""
    path = tmp_path_factory.mktemp("inside") / "runs"
    for name in ("bigram", "gpt2"):
        harness.train(f"{name}:smoke", path / name, **FLAGS)
    made = run("look_inside.py", path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == f"page: {path}/inside.html"
    return path


@pytest.fixture(scope="module")
def insides(folder):
    return inside.read(runs.read_runs([folder])[0]).insides


def subject_of(folder, name):
    opened = harness.open_run(folder / name, "best")
    splits = opened.splits()
    return subject.Subject(
        name,
        opened.model,
        opened.params,
        opened.tokenizer,
        opened.config.model.context_length,
        splits["train"],
        splits["val"],
    ), opened


def test_kinds_by_hand():
    text = "KING LEAR:\nO, I'll go;\n\nTom's fool, no 3:\n\nFool:\nAy"
    found = "".join(
        "nespPc1234o"[
            (
                "speaker names",
                "line ends",
                "spaces",
                "_",
                "punctuation",
                "capitals",
                "letter 1 of a word",
                "letter 2",
                "letter 3",
                "letters 4 and later",
                "other",
            ).index(kinds.NAMES[kind])
        ]
        for kind in kinds.kinds_of(text)
    )
    # The third line does not begin a paragraph's speech: it has an empty line before it.
    expected = "nnnnnnnnnne" + "cPscP12s12Pe" + "e" + "nnnnnnnnnnnnnnnnn" + "ee" + "nnnnne" + "c2"
    assert found == expected


def test_kinds_of_nothing_and_of_one_word():
    assert kinds.kinds_of("").tolist() == []
    names = [kinds.NAMES[kind] for kind in kinds.kinds_of("Words")]
    assert names == ["capitals", "letter 2", "letter 3", *["letters 4 and later"] * 2]


@pytest.mark.long
@pytest.mark.parametrize("name", ["bigram", "gpt2"])
def test_the_scores_are_those_of_an_evaluation(folder, name):
    looked, opened = subject_of(folder, name)
    found = scores.score(looked)
    assert len(found.nats) == len(looked.tokens) - 1
    loss = opened.evaluate("val")["val/loss"]
    assert found.nats.astype(float).mean() == pytest.approx(loss, abs=1e-5)
    # The guesses are the order of the probabilities, right where the best one is the token.
    places = looked.passage
    guesses = scores.guess(looked, places)
    assert (np.diff(guesses.p) <= 0).all()
    is_right = guesses.tokens[:, 0] == looked.tokens[places]
    np.testing.assert_array_equal(is_right, found.is_right[places.start - 1 : places.stop - 1])
    # A token of the passage that is guessed has its own probability.
    here, place = np.argwhere(guesses.tokens == looked.tokens[places][:, None])[0]
    expected = np.exp(-found.nats[places.start - 1 + here])
    assert guesses.p[here, place] == pytest.approx(expected, rel=1e-4)


@pytest.mark.long
def test_guesses_use_the_windows_of_the_whole_text(folder):
    """By another way: the logits of the window that the place is in."""
    looked, opened = subject_of(folder, "gpt2")
    C, places = looked.context_length, looked.passage
    guesses = scores.guess(looked, places)
    for offset in (0, 1, C - 1, C, 100):
        target = places.start + offset
        begin = (target - 1) // C * C
        text = opened.tokenizer.decode(looked.tokens[begin:target])
        assert guesses.tokens[offset, 0] == opened.logits(text)[-1].argmax()


@pytest.mark.long
def test_the_account_adds_up_to_the_losses(folder, insides):
    steps = inside_account.steps(inside_tokens.align(insides))
    assert [step.name for step in steps] == ["bigram", "gpt2"]
    assert steps[0].before == pytest.approx(math.log(65))
    for step, one in zip(steps, insides, strict=True):
        _, opened = subject_of(folder, one.name)
        assert step.loss == pytest.approx(opened.evaluate("val")["val/loss"], abs=1e-4)
        assert sum(step.gains.values()) == pytest.approx(step.before - step.loss, abs=1e-9)
    assert all(later.before == one.loss for one, later in pairwise(steps))


@pytest.mark.long
def test_guesses_won_and_lost_by_hand(folder, insides):
    rights = [scores.score(subject_of(folder, one.name)[0]).is_right for one in insides]
    (found,) = inside_account.flips(inside_tokens.align(insides))
    assert found.won == pytest.approx(np.mean(~rights[0] & rights[1]))
    assert found.lost == pytest.approx(np.mean(rights[0] & ~rights[1]))
    assert found.won + found.lost > 0


def test_a_character_is_known_from_the_first_model_after_the_last_mistake():
    rights = np.random.default_rng(0).integers(0, 2, (4, 50)).tolist()
    for place, column in enumerate(zip(*rights, strict=True)):
        expected = 4
        while expected and column[expected - 1]:
            expected -= 1
        assert inside_passage.known_from(rights)[place] == expected


@pytest.mark.long
def test_the_passage_is_the_same_for_all(folder, insides):
    texts = {tuple(one.views["passage"]["pieces"]) for one in insides}
    assert len(texts) == 1
    (text,) = map("".join, texts)
    assert len(text) == subject.PASSAGE
    _, opened = subject_of(folder, "gpt2")
    held_out = opened.tokenizer.decode(opened.splits()["val"])
    assert "\n\n" + text in held_out


@pytest.mark.long
def test_a_token_of_several_characters_has_the_kind_of_its_first(folder):
    looked, _ = subject_of(folder, "gpt2")
    text = "ab Cdef\nGh"

    class TwoCharacters:
        vocab_size = 5
        token_bytes = np.full(5, 2)

        def decode(self, tokens):
            return "".join(text[2 * token : 2 * token + 2] for token in tokens)

    found = account.measure(
        looked._replace(tokenizer=TwoCharacters(), tokens=np.arange(5)),
        scores.Scores(np.array([1.0, 2.0, 4.0, 8.0]), np.array([True, False, True, True])),
    )
    # After "ab": " C", "de", "f\n", "Gh".
    of_kind = dict(zip(found["kinds"], found["nats"], strict=True))
    assert {kind: nats for kind, nats in of_kind.items() if nats} == {
        "spaces": 1.0,
        "letter 2": 2.0,
        "letters 4 and later": 4.0,
        "capitals": 8.0,
    }


@pytest.mark.long
def test_the_distance_from_each_n_gram_by_another_way(folder):
    """Of a bigram model: its table's rows, and the n-grams' distributions, place by place."""
    looked, opened = subject_of(folder, "bigram")
    measured = yardstick.measure(looked, scores.score(looked))
    C, num = looked.context_length, measured["num_distances"]
    windows = np.unique(np.linspace(0, len(looked.tokens) // C - 1, num // C).astype(int))
    chosen = (windows[:, None] * C + np.arange(C)).ravel()
    assert len(chosen) == num
    table_VV = np.asarray(opened.params["next_token"]["embedding"], float)
    p_VV = np.exp(table_VV) / np.exp(table_VV).sum(-1, keepdims=True)
    p_NV = p_VV[looked.tokens[chosen]]
    counted = ngrams.NGrams(looked.train, 65)
    expected = [
        (p_NV * np.log(p_NV / q_NV)).sum(-1).mean()
        for q_NV in counted.distributions(looked.tokens, C, chosen)
    ]
    np.testing.assert_allclose(measured["distances"], expected, atol=1e-4)


@pytest.mark.long
def test_a_table_of_log_counts_is_the_bigram(folder):
    """The closed form: the loss of counts with one added, and no distance from their n-gram."""
    looked, _ = subject_of(folder, "bigram")
    counts = np.ones((65, 65))
    np.add.at(counts, (looked.train[:-1], looked.train[1:]), 1)
    p_VV = counts / counts.sum(-1, keepdims=True)
    table = np.log(p_VV).astype(np.float32)
    params = {"next_token": {"embedding": jnp.asarray(table)}}
    looked = looked._replace(params=params)
    found = scores.score(looked)
    expected = -np.log(p_VV[looked.tokens[:-1], looked.tokens[1:]])
    np.testing.assert_allclose(found.nats, expected, atol=1e-4)
    measured = yardstick.measure(looked, found)
    assert measured["nearest"] == 2 and measured["distances"][1] < 0.01
    assert measured["as_good_as"] == pytest.approx(2, abs=0.02)


@pytest.mark.long
def test_runs_on_other_texts_are_left_out_of_what_compares_characters(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "runs")
    path = tmp_path / "runs/gpt2" / run_folder.INSIDE
    content = run_folder.read_json(path)
    content["views"]["tokens"] |= {"text": "other", "units": "others"}
    run_folder.write_json(path, content)
    found = inside.read(runs.read_runs([tmp_path / "runs"])[0]).insides
    made = {section.name: section for section in inside.sections(found)}
    assert "passage" not in made
    assert [row[0] for row in made["account"].figures[0].rows].count("loss after") == 1
    assert list(made["account"].figures[0].columns) == ["", "bigram"]
    (line,) = made["account"].left_out
    assert line.startswith("gpt2 is left out of the passage and of what each step bought")
    (line,) = made["yardstick"].left_out
    assert line.startswith("gpt2 is left out of the yardstick: its tokens")


@pytest.mark.long
def test_the_report_has_the_sections_where_a_run_was_looked_into(folder, tmp_path):
    output = tmp_path / "report.html"
    assert run("report.py", folder, f"--output={output}").returncode == 0
    assert 'id="passage-text"' in output.read_text()
    shutil.copytree(folder / "gpt2", tmp_path / "one")
    (tmp_path / "one" / run_folder.INSIDE).unlink()
    assert run("report.py", tmp_path / "one", f"--output={output}").returncode == 0
    assert 'id="passage-text"' not in output.read_text()


@pytest.mark.long
def test_a_broken_file_is_named_and_left_out(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "runs")
    path = tmp_path / "runs/gpt2" / run_folder.INSIDE
    without = run_folder.read_json(path)
    del without["views"]["heads"]["heads"][0]["cost"]
    for text in ('{"step": "two"}', json.dumps(without), "[]"):
        path.write_text(text)
        found = inside.read(runs.read_runs([tmp_path / "runs"])[0])
        assert [one.name for one in found.insides] == ["bigram"]
        assert "gpt2/inside.json can't be read" in found.unread[0]


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no run to look into: name a folder"),
        (("{folder}/nowhere",), "does not exist: expected a run folder"),
        (("{folder}", "--checkpoint=7"), "checkpoint '7': expected one of best, latest"),
        (("{folder}", "--text={folder}/none.txt"), "none.txt"),
        (("{folder}", "--output={folder}/no/page.html"), "in a folder that can be written"),
        (("{folder}", "--data={folder}/no/data.json"), "--data={folder}/no/data.json: expected a"),
        (("{folder}", "--wandb=on"), "wandb"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, message):
    flags = (argument.replace("{folder}", str(folder)) for argument in arguments)
    assert_refused(run("look_inside.py", *flags), message.replace("{folder}", str(folder)))


@pytest.mark.long
def test_a_text_of_ones_own_and_a_page_elsewhere(folder, tmp_path):
    shutil.copytree(folder / "bigram", tmp_path / "bigram")
    (tmp_path / "own.txt").write_text("To be, or not to be.\n" * 40)
    flags = (f"--text={tmp_path / 'own.txt'}", f"--output={tmp_path / 'page.html'}")
    flags += (f"--data={tmp_path / 'data.json'}", f"--figures={tmp_path / 'figures'}")
    made = run("look_inside.py", tmp_path / "bigram", *flags)
    assert made.returncode == 0, made.stderr
    content = json.loads((tmp_path / "bigram" / run_folder.INSIDE).read_text())
    assert content["text"].endswith("own.txt")
    assert sum(content["views"]["account"]["counts"]) == 21 * 40 - 1
    assert "own.txt" in (tmp_path / "page.html").read_text()
    (record,) = json.loads((tmp_path / "data.json").read_text())["runs"]
    assert record["loss"] == pytest.approx(content["loss"])
    # From the uniform distribution over the characters of the training text.
    assert np.log(65) - sum(record["gains"].values()) == pytest.approx(record["loss"], abs=1e-4)
    assert record["heads"] == [] and record["sample"]["text"]
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"account-nats-gained.svg", "yardstick-loss-of-n-grams.svg"} <= drawn


@pytest.mark.long
def test_pairs_are_not_a_text(tmp_path):
    lines = [json.dumps({"q": f"{i}", "a": "abc"}) for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    data = {"name": "text", "path": f"{tmp_path}/pairs.jsonl", "prompt_field": "q", "field": "a"}
    changes = {f"data.{key}": value for key, value in data.items()}
    harness.train("bigram:smoke", tmp_path / "run", **changes, **FLAGS)
    assert_refused(run("look_inside.py", tmp_path / "run"), "was trained on pairs: only texts can")


@pytest.mark.slow
class TestPage:
    __test__ = browser.is_wanted()

    @pytest.mark.long
    def test_axe_finds_nothing_and_no_label_is_cut(self, folder):
        assert_accessible(folder / "inside.html")

    @pytest.mark.long
    def test_the_arrow_keys_and_the_pointer_show_the_guesses(self, folder, insides):
        shown = insides[0].views["passage"]
        with (
            browser.launch() as chromium,
            browser.open_file(chromium, folder / "inside.html") as opened,
        ):
            text = opened.locator("#passage-text")
            text.press("Home")
            for place in range(3):
                table = opened.locator("#passage-guesses table")
                first = table.locator("tbody tr").first
                best = shown["guesses"][place][0].replace("\n", "⏎").replace(" ", "␣")
                assert first.locator("td").nth(1).inner_text().startswith(best)
                text.press("ArrowRight")
            opened.locator(".c").nth(9).hover()
            here = shown["pieces"][9].replace("\n", "⏎").replace(" ", "␣")
            assert opened.locator("#passage-guesses caption b").inner_text() == here

    @pytest.mark.long
    def test_hostile_names_and_texts_stay_text(self, folder, tmp_path):
        found = inside.read(runs.read_runs([folder])[0]).insides
        bad = []
        for place, one in enumerate(found):
            content = json.loads(json.dumps(one.views))
            content["passage"]["pieces"][:3] = [HOSTILE] * 3
            content["passage"]["guesses"][0] = [HOSTILE] * 5
            bad.append(inside.Inside(f"{HOSTILE}{place}", place, 1, HOSTILE, 1.0, content))
        path = tmp_path / "bad.html"
        path.write_text(inside.render(bad, [HOSTILE]))
        with browser.launch() as chromium, browser.open_file(chromium, path) as opened:
            opened.wait_for_function(DRAWN)
            opened.locator("#passage-text").press("Home")
            assert opened.title() == "What did each idea buy?"
            assert "broken" in opened.locator("#passage-guesses").inner_text()
