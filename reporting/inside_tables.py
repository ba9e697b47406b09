"""Section "Tables": what follows one character, and what the models' embeddings are like."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from reporting.charts import COLORS, Rows, Spec, inline, to_spec
from reporting.inside_parts import Figure, Inside, Section, alike, visible

# Distances in positions of the table.
DISTANCES = (1, 2, 4, 8, 16, 32)


def section(insides: Sequence[Inside]) -> Section | None:
    """Returns the section; None without a run that was measured."""
    found, left_out = alike(insides, "tables", "the tables")
    if not found:
        return None
    return Section(
        name="tables",
        title="Tables",
        question="What has the model written into its tables?",
        reading="After one character alone there is nothing else to know: the more a model's table "
        "looks like that of counts, the better it has learnt pairs. Characters near each other in "
        "the map have similar embeddings, and so have positions with a dark field.",
        figures=[
            following(found),
            *(figure for figure in (mapped(found), positions(found)) if figure),
        ],
        left_out=left_out,
    )


def following(found: Sequence[Inside]) -> Figure:
    """Draws what follows each of the frequent characters, by each model and by counting."""
    rows: Rows = []
    for one in found:
        view = one.views["tables"]
        pieces = [visible(piece) for piece in view["pieces"]]
        of_sides = {one.name: view["following"]["model"]}
        if one is found[0]:
            of_sides["counts"] = view["following"]["counts"]
        for side, table in of_sides.items():
            rows += [
                {"of": side, "before": pieces[i], "after": pieces[j], "p": p}
                for i, row in enumerate(table)
                for j, p in enumerate(row)
                if p
            ]
    order = list(dict.fromkeys(row["before"] for row in rows))
    names = [*(one.name for one in found), "counts"]
    heading = "Probability of the next character after one alone"
    return Figure(
        heading,
        heat_map(rows, "following", names, ("after", "next"), ("before", "after"), "p", order),
        ["model", "KL divergence from the counts, nats", "share of the text"],
        [
            [one.name, f"{table['distance']:.3f}", f"{table['share']:.1%}"]
            for one in found
            for table in [one.views["tables"]["following"]]
        ],
    )


def heat_map(
    rows: Rows,
    what: str,
    names: Sequence[str],
    x: tuple[str, str],
    y: tuple[str, str],
    value: str,
    order: Sequence[Any],
) -> Spec:
    """Draws a table of numbers for the model that a menu chooses; x and y are field and title."""
    chosen = menu(what, names)
    axis = alt.Axis(labelAngle=0, grid=False, domain=False, ticks=False)
    chart = inline(rows).mark_rect().add_params(chosen)
    chart = chart.transform_filter(f"datum.of == {chosen.name}")
    chart = chart.encode(
        alt.X(f"{x[0]}:N", title=x[1], sort=list(order), axis=axis),
        alt.Y(f"{y[0]}:N", title=y[1], sort=list(order), axis=axis),
        alt.Opacity(f"{value}:Q", legend=None).scale(type="sqrt", domain=[0, 1], range=[0, 1]),
        color=alt.value(COLORS[0]),
        tooltip=[f"{y[0]}:N", f"{x[0]}:N", alt.Tooltip(f"{value}:Q", format=".3f")],
    )
    return to_spec(chart, 380, f"A table of numbers for each model: {y[1]}, {x[1]}.")


def menu(what: str, names: Sequence[str]) -> alt.Parameter:
    """Returns a parameter that a menu of the models sets."""
    bind = alt.binding_select(options=list(names), name="Model ")
    return alt.param(name=f"model_{what}", bind=bind, value=names[0])


def mapped(found: Sequence[Inside]) -> Figure | None:
    """Draws the map of the characters' embeddings; None if no model has any."""
    views = {one.name: one.views["tables"] for one in found if one.views["tables"]["tokens"]}
    if not views:
        return None
    rows = [
        {"of": name, "piece": visible(piece), "x": x, "y": y, "kind": kind(piece)}
        for name, view in views.items()
        for piece, (x, y) in zip(view["pieces"], view["tokens"]["map"], strict=True)
    ]
    chosen = menu("map", [*views])
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    axis = alt.Axis(labels=False, ticks=False)
    chart = inline(rows).mark_text(fontSize=15, fontWeight=600).add_params(chosen)
    chart = chart.transform_filter(f"datum.of == {chosen.name}")
    chart = chart.encode(
        alt.X("x:Q", title="first principal component", axis=axis).scale(zero=False, padding=20),
        alt.Y("y:Q", title="second", axis=axis).scale(zero=False, padding=20),
        alt.Text("piece:N"),
        alt.Color("kind:N", title=None)
        .legend(orient="bottom", columns=2)
        .scale(domain=kinds, range=COLORS),
        tooltip=["piece:N"],
    )
    (first, *_) = views.values()
    return Figure(
        "Map of the characters",
        to_spec(chart, 380, "A map of the embeddings of characters, for each model."),
        ["character", *(f"neighbours in {name}" for name in views)],
        [
            [
                visible(piece),
                *(
                    " ".join(visible(view["pieces"][at]) for at in view["tokens"]["neighbours"][i])
                    if i < len(view["pieces"])
                    else ""
                    for view in views.values()
                ),
            ]
            for i, piece in enumerate(first["pieces"])
        ],
    )


def positions(found: Sequence[Inside]) -> Figure | None:
    """Draws the similarity of the embeddings of positions; None if no model has any."""
    views = {
        one.name: view for one in found if (view := one.views["tables"]["positions"]) is not None
    }
    if not views:
        return None
    rows = [
        {"of": name, "one": one, "other": other, "similarity": similarity}
        for name, view in views.items()
        for one, row in zip(view["places"], view["similarity"], strict=True)
        for other, similarity in zip(view["places"], row, strict=True)
        if similarity > 0
    ]
    places = sorted({row["one"] for row in rows})
    title = "position"
    return Figure(
        "Similarity of positions, cosine",
        heat_map(
            rows, "positions", [*views], ("other", title), ("one", title), "similarity", places
        ),
        ["model", *(f"{distance} apart" for distance in DISTANCES)],
        [
            [name, *(apart(view, distance) for distance in DISTANCES)]
            for name, view in views.items()
        ],
    )


def apart(view: dict[str, Any], distance: int) -> str:
    """Returns the mean similarity of positions about that far apart; a dash for none."""
    places = view["places"]
    spacing = max(1, round(places[-1] / len(places)))
    found = [
        similarity
        for one, row in zip(places, view["similarity"], strict=True)
        for other, similarity in zip(places, row, strict=True)
        if 2 * abs(other - one - distance) < spacing or other - one == distance
    ]
    return f"{sum(found) / len(found):.2f}" if found else "–"


def kind(piece: str) -> str:
    """Returns a coarse kind of character, for the map's colors."""
    if piece.isalpha():
        is_vowel = piece[0].lower() in "aeiou"
        return ("vowel" if is_vowel else "consonant") + (", capital" if piece[0].isupper() else "")
    return "other"
