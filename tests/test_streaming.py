"""Text as it is generated: whole characters, and an end before a stop string."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.streaming import stream_text
from input_pipeline.tokenizers import ByteTokenizer, Gpt2Tokenizer

BYTES = ByteTokenizer()


def first_whole(text, stops):
    """Oracle: the text, read by characters, up to the stop that is whole first."""
    for end in range(len(text) + 1):
        whole = [stop for stop in stops if text[:end].endswith(stop)]
        if whole:
            return text[: end - max(map(len, whole))]
    return text


SHORT = st.text("ab\né𝄞")


@given(SHORT, st.lists(SHORT.filter(bool), max_size=3), st.lists(st.integers(0, 12), max_size=4))
def test_the_end_does_not_depend_on_the_pieces(text, stops, cuts):
    chunks = np.split(BYTES.encode(text), sorted(cuts))
    assert "".join(stream_text(BYTES, chunks, stops)) == first_whole(text, stops)


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        ([], "ROMEO:\nWhat, ho!\n\nJULIET:\n"),
        (["\n\n"], "ROMEO:\nWhat, ho!"),
        (["JULIET", "ho!"], "ROMEO:\nWhat, "),
        (["WHAT"], "ROMEO:\nWhat, ho!\n\nJULIET:\n"),
        (["ROMEO"], ""),
    ],
)
def test_nothing_is_read_after_a_stop(stops, expected):
    text = "ROMEO:\nWhat, ho!\n\nJULIET:\n"
    read = []

    def chunks():
        for at in range(len(text)):
            read.append(at)
            yield BYTES.encode(text[at])

    assert "".join(stream_text(BYTES, chunks(), stops)) == expected
    ended = [text.index(stop) + len(stop) for stop in stops if stop in text]
    assert len(read) == min(ended, default=len(text))


def test_the_end_of_a_document_stops_a_text():
    """It is one token for GPT-2, and a text for those who read it."""
    tokens = np.array([15496, 50256, 995], np.int32)
    made = stream_text(Gpt2Tokenizer(), np.split(tokens, 3), ["<|endoftext|>"])
    assert "".join(made) == "Hello"
