"""Made texts: each needs one idea more than the one before, and has a floor that is known.

    python -m input_pipeline.made_texts

prints all of them. A text is a set of independent windows of 32 letters. Only those letters count
that need the idea. The floor is the loss of the generator, which knows the probability of each of
them: no model is better, but by chance.
"""

import difflib
import functools
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.made_texts import IDEAS, PREFIX
from input_pipeline.pairs import Records
from runtime.errors import UserError

LETTERS = "abcdefghijklmnop"
V = len(LETTERS)
T = 32  # Letters of a window.
NUM_TRAIN, NUM_VAL = 2**16, 2**11  # Windows.
SEED = 0
# Standard deviation of the logits of a table's rows: some letters are likely, none is certain.
SPREAD = 2.0
STOP, STOP_SHARE = V - 1, 0.25  # Of `new_table`.


class Windows(NamedTuple):
    """Windows [N, T]: letters as token ids, those that count, and -log p of those, in nats.

    p is the generator's own probability of the letter, given those before it.
    """

    tokens: np.ndarray
    counted: np.ndarray
    nats: np.ndarray


class MadeText(NamedTuple):
    """Both splits of a made text, and the sha256 of their letters."""

    train: Records
    val: Records
    digest: str


def previous(tables: np.random.Generator, rng: np.random.Generator, num: int) -> Windows:
    """Draws windows whose letters each depend on the one before."""
    return _markov(balanced_table(tables), rng, num, back=1)


def five_back(tables: np.random.Generator, rng: np.random.Generator, num: int) -> Windows:
    """Draws windows whose letters each depend on the one five places back."""
    return _markov(balanced_table(tables), rng, num, back=5)


def two_places(tables: np.random.Generator, rng: np.random.Generator, num: int) -> Windows:
    """Draws windows whose letters each depend on two: what both places say is multiplied."""
    two_VV, five_VV = tables.normal(scale=SPREAD, size=(2, V, V))
    p_VVV = np.exp(two_VV[:, None] + five_VV[None])
    p_KV = (p_VVV / p_VVV.sum(-1, keepdims=True)).reshape(-1, V)
    made = _random(rng, num)
    for t in range(5, T):
        _write(made, t, p_KV, V * made.tokens[:, t - 2] + made.tokens[:, t - 5], rng)
    return made


def sum_of_two(tables: np.random.Generator, rng: np.random.Generator, num: int) -> Windows:
    """Draws windows whose every third letter is the sum of the two before it, modulo 16."""
    del tables
    made = _random(rng, num)
    made.tokens[:, 2::3] = (made.tokens[:, 0:-2:3] + made.tokens[:, 1:-1:3]) % V
    made.counted[:, 2::3] = True
    return made


def new_table(tables: np.random.Generator, rng: np.random.Generator, num: int) -> Windows:
    """Draws windows that run along a circle of the first 15 letters, in an order of their own.

    A stop, the last letter, follows a quarter of the letters, and the text goes on at a random
    place of the circle. A letter counts if the one before it was followed by it before: who
    remembers that is certain of it, as the generator is.
    """
    del tables
    circle_NV = rng.permuted(np.tile(np.arange(STOP), (num, 1)), axis=1)
    made = _random(rng, num)
    rows, place_N = np.arange(num), rng.integers(STOP, size=num)
    was_stop_N = np.ones(num, bool)
    is_known_NV = np.zeros((num, STOP), bool)  # Steps along the circle that the window has shown.
    for t in range(T):
        is_stop_N = ~was_stop_N & (rng.random(num) < STOP_SHARE)
        place_N = np.where(was_stop_N, rng.integers(STOP, size=num), (place_N + ~is_stop_N) % STOP)
        made.tokens[:, t] = np.where(is_stop_N, STOP, circle_NV[rows, place_N])
        is_step_N = ~was_stop_N & ~is_stop_N
        made.counted[:, t] = is_step_N & is_known_NV[rows, place_N]
        is_known_NV[rows, place_N] |= is_step_N
        was_stop_N = is_stop_N
    return made


Draw = Callable[[np.random.Generator, np.random.Generator, int], Windows]
TEXTS: dict[str, Draw] = dict(
    zip(IDEAS, (previous, five_back, two_places, sum_of_two, new_table), strict=True)
)


def balanced_table(rng: np.random.Generator) -> np.ndarray:
    """Returns random probabilities of the next letter, whose rows and columns all add up to 1.

    Letters drawn by them are equally frequent, in the long run and from the first one on.
    """
    table_VV = np.exp(rng.normal(scale=SPREAD, size=(V, V)))
    for _ in range(200):  # Sinkhorn and Knopp (1967).
        table_VV /= table_VV.sum(0)
        table_VV /= table_VV.sum(1, keepdims=True)
    return table_VV


def _markov(table_VV: np.ndarray, rng: np.random.Generator, num: int, back: int) -> Windows:
    """Draws each letter from the table's row of the letter `back` places before it."""
    made = _random(rng, num)
    for t in range(back, T):
        _write(made, t, table_VV, made.tokens[:, t - back], rng)
    return made


def _random(rng: np.random.Generator, num: int) -> Windows:
    """Returns windows of random letters, none of which counts."""
    tokens_NT = rng.integers(V, size=(num, T), dtype=np.int32)
    return Windows(tokens_NT, np.zeros((num, T), bool), np.zeros((num, T)))


def _write(
    made: Windows, t: int, p_KV: np.ndarray, rows_N: np.ndarray, rng: np.random.Generator
) -> None:
    """Draws letter `t` of each window, which counts, by a row of a table of probabilities."""
    # One search for all windows: row k of the table has the numbers from k to k + 1.
    ends = (np.arange(len(p_KV))[:, None] + p_KV.cumsum(-1)).ravel()
    places_N = np.searchsorted(ends, rows_N + rng.random(len(rows_N)), side="right")
    letters_N = np.minimum(places_N - V * rows_N, V - 1)  # A last sum may be a rounding below 1.
    made.tokens[:, t] = letters_N
    made.counted[:, t] = True
    made.nats[:, t] = -np.log(p_KV[rows_N, letters_N])


def windows(name: str, split: str, num: int) -> Windows:
    """Returns `num` windows of a split, train or val: a pure function of the arguments.

    Both splits have the same tables.
    """
    tables, drawn = (
        np.random.default_rng([SEED, *f"{name} {purpose}".encode()])
        for purpose in ("tables", split)
    )
    return TEXTS[name](tables, drawn, num)


@functools.cache
def draw(name: str) -> MadeText:
    """Returns a made text."""
    train, val = (
        Records(np.where(made.counted, made.tokens, ~made.tokens), made.nats)
        for made in (windows(name, "train", NUM_TRAIN), windows(name, "val", NUM_VAL))
    )
    # NumPy may draw otherwise some day: a resumed run then finds another text.
    digest = hashlib.sha256(train.tokens.tobytes() + val.tokens.tobytes()).hexdigest()
    return MadeText(train, val, digest)


def find(data: ConfigDict) -> MadeText:
    """Returns the made text that `config.data` names.

    Raises UserError for an unknown name, and for keys that a made text does not have.
    """
    name = data.name.removeprefix(PREFIX)
    if name not in TEXTS:
        near = difflib.get_close_matches(name, TEXTS, 1)
        hint = f"did you mean {PREFIX}{near[0]}? " if near else ""
        raise UserError(
            f"--config.data.name={data.name!r}: {hint}expected {PREFIX} and one of "
            f"{', '.join(TEXTS)}"
        )
    for key in ("path", "val_path", "field", "prompt_field", "document_separator"):
        if data[key]:
            raise UserError(
                f"--config.data.{key}={data[key]!r}: expected none with "
                f"--config.data.name={data.name}, which is drawn, not read; leave it out"
            )
    if data.tokenizer != "char":
        raise UserError(
            f"--config.data.tokenizer={data.tokenizer!r}: expected 'char' with "
            f"--config.data.name={data.name}, whose tokens are {V} letters"
        )
    return draw(name)


def main() -> None:
    """Prints each text's name, the idea that it needs, a window, and its floor."""
    for name, idea in IDEAS.items():
        val = draw(name).val
        first = val.tokens[:T]
        shown = (LETTERS[t].upper() if t >= 0 else LETTERS[~t] for t in first)
        print(f"{PREFIX}{name} needs {idea}")
        print(f"  a window, what counts in capitals: {''.join(shown)}")
        count = int((val.tokens >= 0).sum())
        print(f"  floor: {val.floor:.4f} nats, over the {count:,} letters of val that count")


if __name__ == "__main__":
    main()
