"""Section "Who knew it?": a passage, each character marked with the stage that knows it first."""

from collections.abc import Sequence

from reporting.inside_parts import Inside, Section, alike, colors


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None for fewer than two runs on the same characters."""
    same, left_out = alike(insides)
    if len(same) < 2:
        return None
    passages = [inside.views["passage"] for inside in same]
    rights = [passage["right"] for passage in passages]
    known = known_from(rights)
    shades = colors(insides)
    of_each = [
        {"name": inside.name, **{key: passage[key] for key in ("p", "guesses", "p_guesses")}}
        for inside, passage in zip(same, passages, strict=True)
    ]
    counts = [known.count(place) for place in range(len(same) + 1)]
    return Section(
        name="passage",
        title="Who knew it?",
        question="From which model on does the best guess stay right?",
        reading="The digit below a character is the first model from which on every model's best "
        "guess is that character; none guesses a character marked with a dot. Point at a "
        "character, or move with the arrow keys, to see all guesses.",
        data={
            "pieces": passages[0]["pieces"],
            "known": known,
            "models": of_each,
            "colors": [shades[inside.name] for inside in same],
            "legend": [
                {"digit": f"{place + 1}", "name": inside.name, "count": counts[place]}
                for place, inside in enumerate(same)
            ],
            "never": counts[-1],
        },
        left_out=left_out,
    )


def known_from(rights: Sequence[Sequence[int]]) -> list[int]:
    """Returns for each character the first run from which on all are right; their number if none.

    `rights` has a row a run, in the order of stages.
    """
    known = [len(rights)] * len(rights[0])
    for place in range(len(rights) - 1, -1, -1):
        for i, is_right in enumerate(rights[place]):
            if is_right and known[i] == place + 1:
                known[i] = place
    return known
