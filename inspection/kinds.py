"""Kinds of characters: what a stage gains on letters, and on where a line ends, are two things."""

import re

import numpy as np

NAMES = (
    "speaker names",
    "line ends",
    "spaces",
    "punctuation",
    "capitals",
    "letter 1 of a word",
    "letter 2",
    "letter 3",
    "letters 4 and later",
    "other",
)
# A line after an empty one that ends in a colon.
SPEAKER = re.compile(r"(?:\A|(?<=\n\n))[^\n:]{1,40}:(?=\n)")


def kinds_of(text: str) -> np.ndarray:
    """Returns the kind of each character of a text, as a place in NAMES."""
    kinds = np.array([_kind(character) for character in text], np.int8)
    is_letter = np.array([character.isalpha() for character in text])
    # The place of a letter in its word: characters since the last one that is no letter.
    places = np.arange(len(text))
    before = np.maximum.accumulate(np.where(is_letter, -1, places)) if len(text) else places
    in_word = np.minimum(places - before, 4)
    lower = kinds == NAMES.index("letter 1 of a word")
    kinds[lower] += (in_word[lower] - 1).astype(np.int8)
    for name in SPEAKER.finditer(text):
        kinds[slice(*name.span())] = NAMES.index("speaker names")
    return kinds


def _kind(character: str) -> int:
    if character == "\n":
        return NAMES.index("line ends")
    if character.isspace():
        return NAMES.index("spaces")
    if character.isupper():
        return NAMES.index("capitals")
    if character.isalpha():
        return NAMES.index("letter 1 of a word")  # Or a later one: `kinds_of` counts.
    # Of ASCII, and what Unicode has in their place: quotes, dashes, points of omission.
    if character in "!\"'(),-.:;?[]`" or 0x2010 <= ord(character) <= 0x2027:
        return NAMES.index("punctuation")
    return NAMES.index("other")
