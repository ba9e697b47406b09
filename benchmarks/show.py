"""Results for the eye: a table for the terminal, a plot for the page."""

from pathlib import Path

from rich import box
from rich.table import Table

from benchmarks.measure import Row


def table(rows: list[Row]) -> Table:
    """The rows for rich to print; a dash for what a work does not have."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("work", "precision"):
        made.add_column(column, no_wrap=True)
    for column in ("ours", "PyTorch", "unit", "ratio", "from", "to", "runs"):
        made.add_column(column, justify="right", no_wrap=True)
    for column in ("utilisation", "peak MiB"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("PyTorch's variant")
    for row in rows:
        remark = row["peer_variant"]
        if "share" in row:
            remark = f"{100 * row['share']:.2g} % of our training step"
        made.add_row(
            row["work"],
            row["precision"] or "-",
            number(row["ours"], ".4g"),
            number(row["peer"], ".4g"),
            row["unit"],
            *[number(row[name], ".2f") for name in ("ratio", "lowest_ratio", "highest_ratio")],
            str(row["runs"]),
            both(row, "utilisation", ".0%"),
            both(row, "peak_mib", ".0f"),
            remark or "-",
        )
    return made


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def both(row: Row, name: str, form: str) -> str:
    return " / ".join(format(value, form) for value in row[name].values()) if name in row else "-"


def plot(rows: list[Row], path: Path) -> None:
    """Draws each work's ratio, from its lowest to its highest round, into a PNG."""
    import altair

    compared = [
        {**row, "label": f"{row['work']}, {row['precision']}" if row["precision"] else row["work"]}
        for row in rows
        if row["ratio"] is not None
    ]
    data = altair.Data(values=compared)
    works = altair.Y("label:N", sort=None, title=None)
    log = altair.Scale(type="log", nice=False, padding=20)
    span = altair.X("lowest_ratio:Q", scale=log, title="PyTorch's time over ours")
    chart = altair.layer(
        altair.Chart(altair.Data(values=[{"one": 1}])).mark_rule(color="gray").encode(x="one:Q"),
        altair.Chart(data).mark_rule().encode(y=works, x=span, x2="highest_ratio:Q"),
        altair.Chart(data).mark_point(filled=True, size=60, opacity=1).encode(y=works, x="ratio:Q"),
        title="Right of the line ours is faster",
    )
    chart.properties(width=500).save(path, scale_factor=2)
