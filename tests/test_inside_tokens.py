"""Runs with other tokens on one text, aligned: by hand, by brute force, and real tokenizers."""

import math
from itertools import pairwise

import numpy as np
import pytest

from input_pipeline import tokenizers
from inspection import account, kinds, scores, tokens
from inspection.subject import Subject
from reporting import inside_account, inside_passage, inside_tokens, inside_yardstick
from reporting.inside_parts import Inside
from tests.stages import TINY

TEXT = "KING LEAR:\nTo be, or not: “thou”, naïve Tom?\n\n" * 30


def view(lengths, nats, right, units, uniform=1.0):
    """Returns what inspection gives for tokens of these lengths; the first is not predicted."""
    return {
        "text": "one",
        "units": units,
        "names": list(kinds.NAMES),
        "uniform": uniform,
        "bytes": tokens.packed(np.array(lengths), "<u4"),
        "kinds": tokens.packed(np.arange(len(lengths)) % 3, "u1"),
        "nats": tokens.packed(np.array(nats, float), "<f4"),
        "right": tokens.packed(np.array(right), "u1"),
    }


def insides_of(*views):
    return [
        Inside(f"run {place}", place, 1, "a text", 1.0, {"tokens": one})
        for place, one in enumerate(views)
    ]


def test_by_hand():
    """Letters a b c d e f beside ab, cd, e, f: parts c d, e, f."""
    letters = view([1] * 6, [9, 1, 2, 4, 8], [0, 1, 1, 0, 1], "letters", uniform=3.0)
    pairs = view([2, 2, 1, 1], [16, 32, 64], [1, 1, 0], "pairs")
    aligned = inside_tokens.align(insides_of(letters, pairs))
    assert aligned.nats_RM.tolist() == [[3, 4, 8], [16, 32, 64]]
    assert aligned.is_right_RM.tolist() == [[True, False, True], [True, True, False]]
    assert aligned.uniform_M.tolist() == [6, 3, 3]
    assert aligned.kinds_M.tolist() == [2, 1, 2]  # Of the letters c, e and f.
    assert (aligned.unit, aligned.num, aligned.lengths_M.tolist()) == ("byte", 4, [2, 1, 1])
    (flips,) = inside_account.flips(aligned)
    assert (flips.won, flips.lost) == (0.25, 0.25)


def test_the_same_tokens_are_not_cut_otherwise():
    """Characters of several bytes count once."""
    letters = view([1, 3, 1], [9, 1], [0, 1], "letters")
    aligned = inside_tokens.align(insides_of(letters, letters))
    assert (aligned.unit, aligned.num) == ("token", 2)
    assert aligned.nats_RM.tolist() == [[9, 1]] * 2


@pytest.mark.parametrize("seed", range(5))
def test_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(3):
        cuts = np.sort(rng.choice(np.arange(1, 60), 25, replace=False))
        lengths = np.diff([0, *cuts, 60])
        nats, right = rng.uniform(0, 4, 25), rng.integers(0, 2, 25)
        runs.append((lengths, np.float32(nats), right))
    aligned = inside_tokens.align(insides_of(*(view(*run, str(i)) for i, run in enumerate(runs))))
    common = [
        place for place in range(1, 61) if all(place in np.cumsum(lengths) for lengths, *_ in runs)
    ]
    assert aligned.lengths_M.tolist() == np.diff(common).tolist()
    for place, (lengths, nats, right) in enumerate(runs):
        ends = np.cumsum(lengths)
        for part, (begin, end) in enumerate(pairwise(common)):
            inner = [i for i, at in enumerate(ends[1:]) if begin < at <= end]
            total = sum(float(nats[i]) for i in inner)
            assert aligned.nats_RM[place, part] == pytest.approx(total)
            assert aligned.is_right_RM[place, part] == all(right[i] for i in inner)


@pytest.fixture(scope="module")
def looked():
    """Returns runs of random guesses on one text, by tokenizer."""
    rng = np.random.default_rng(0)
    made = {}
    for stage, name in enumerate(("char", "byte", "bpe:300")):
        tokenizer = tokenizers.build(name, lambda: [TEXT], lambda: [TEXT])
        ids = tokenizer.encode(TEXT)
        num = len(ids) - 1
        subject = Subject("x", TINY["bigram"], None, tokenizer, 8, ids, ids)
        found = scores.Scores(rng.uniform(0, 4, num).astype(np.float32), rng.random(num) < 0.5)
        places = subject.passage
        shown = {
            "begin": int(tokenizer.token_bytes[ids[: places.start]].sum()),
            "bytes": tokenizer.token_bytes[ids[places]].tolist(),
            "pieces": [tokenizer.decode([token]) for token in ids[places]],
            "right": found.is_right[places.start - 1 : places.stop - 1].astype(int).tolist(),
        }
        views = {
            "tokens": tokens.measure(subject, found),
            "account": account.measure(subject, found),
            "passage": {key: shown.get(key, []) for key in (*shown, "p", "guesses", "p_guesses")},
        }
        made[name] = Inside(name, stage, 1, "a text", 1.0, views)
    return made


def test_real_tokenizers_lose_nothing_of_the_text(looked):
    same, left_out = inside_tokens.on_one_text(list(looked.values()))
    assert len(same) == 3 and not left_out
    aligned = inside_tokens.align(same)
    size = len(TEXT.encode())
    first = [inside_tokens.unpacked(one.views["tokens"]["bytes"], "<u4")[0] for one in same]
    assert aligned.num == size - max(first)
    # By each run: its steps add up to its nats on the parts, and these to nearly its whole loss.
    steps = inside_account.steps(aligned)
    assert sum(steps[0].gains.values()) == pytest.approx(steps[0].before - steps[0].loss)
    for step, one in zip(steps, same, strict=True):
        nats = inside_tokens.unpacked(one.views["tokens"]["nats"], "<f4")
        ends = np.cumsum(inside_tokens.unpacked(one.views["tokens"]["bytes"], "<u4"))[1:]
        total = float(nats[ends > max(first)].astype(float).sum())
        assert step.loss == pytest.approx(total / aligned.num)
    assert steps[0].before <= math.log(len(set(TEXT)))


def test_kinds_are_those_of_the_text_for_all_tokens(looked):
    """Of bytes, too, where a character is more than one of them."""
    expected = kinds.kinds_of(TEXT)
    of_bytes = inside_tokens.unpacked(looked["byte"].views["tokens"]["kinds"], "u1")
    sizes = [len(character.encode()) for character in TEXT]
    np.testing.assert_array_equal(of_bytes, np.repeat(expected, sizes))
    of_characters = inside_tokens.unpacked(looked["char"].views["tokens"]["kinds"], "u1")
    np.testing.assert_array_equal(of_characters, expected)
    view = looked["char"].views["account"]
    np.testing.assert_array_equal(view["counts"], np.bincount(expected[1:], minlength=10))


def test_a_passage_shows_the_token_that_a_character_is_in(looked):
    data = inside_passage.section(list(looked.values())).data
    # The same characters for all; bytes are the shortest.
    text = TEXT.encode()
    begin = looked["byte"].views["passage"]["begin"]
    assert {one.views["passage"]["begin"] for one in looked.values()} == {begin}
    pieces = [chr(byte) if byte < 128 else "\ufffd" for byte in text[begin:]]
    assert data["pieces"] == pieces[: len(data["pieces"])] and len(data["pieces"]) > 590
    for model, one in zip(data["models"], looked.values(), strict=True):
        shown = one.views["passage"]
        ends = shown["begin"] + np.cumsum(shown["bytes"])
        for offset in (0, 1, 50, 399):
            token = model["at"][offset]
            assert ends[token] - shown["bytes"][token] <= begin + offset < ends[token]
            piece = text[ends[token] - shown["bytes"][token] : ends[token]]
            assert shown["pieces"][token] == piece.decode("utf-8", "replace")


def test_other_tokens_are_left_out_of_the_yardstick(looked):
    yardstick = {
        "orders": [1, 2],
        "losses": [3.0, 2.0],
        "as_good_as": 1.5,
        "distances": [0.2, 0.1],
        "nearest": 2,
    }
    made = [
        Inside(name, 1, 1, "a text", 2.5, {**one.views, "yardstick": yardstick})
        for name, one in looked.items()
        for _ in range(1 + (name == "char"))
    ]
    section = inside_yardstick.section(made)
    assert [row[0] for row in section.figures[0].rows][:2] == ["char", "char"]
    assert [line.split()[0] for line in section.left_out] == ["byte", "bpe:300"]
