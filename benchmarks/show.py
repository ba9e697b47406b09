"""Results as a table for the terminal and as a plot."""

from pathlib import Path

from rich import box
from rich.table import Table

from benchmarks.measure import Row


def table(rows: list[Row]) -> Table:
    """Returns the rows as a table for rich, with a dash for a missing value."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("work", "precision"):
        made.add_column(column, no_wrap=True)
    numbers = ("ours", "PyTorch", "unit", "ratio", "from", "to", "runs", "utilisation", "peak MiB")
    for column in numbers:
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("PyTorch's variant")
    for row in rows:
        remark = row["peer_variant"]
        if "share" in row:
            remark = f"{100 * row['share']:.2g} % of our training step"
        made.add_row(
            row["work"],
            row["precision"] or "-",
            format_number(row["ours"], ".4g"),
            format_number(row["peer"], ".4g"),
            row["unit"],
            *[format_number(row[key], ".2f") for key in ("ratio", "lowest_ratio", "highest_ratio")],
            str(row["runs"]),
            format_sides(row, "utilisation", ".0%"),
            format_sides(row, "peak_mib", ".0f"),
            remark or "-",
        )
    return made


def format_number(value: float | None, form: str) -> str:
    """Returns a number in the format `form`; a dash for None."""
    return "-" if value is None else format(value, form)


def format_sides(row: Row, name: str, form: str) -> str:
    """Returns a figure of both sides, "ours / peer"; a dash if the row does not have it."""
    return " / ".join(format(value, form) for value in row[name].values()) if name in row else "-"


def plot(rows: list[Row], path: Path) -> None:
    """Writes a PNG with each row's ratio, from its lowest to its highest round."""
    import altair

    compared = [
        {**row, "label": f"{row['work']}, {row['precision']}" if row["precision"] else row["work"]}
        for row in rows
        if row["ratio"] is not None
    ]
    data = altair.Data(values=compared)
    labels = altair.Y("label:N", sort=None, title=None)
    log = altair.Scale(type="log", nice=False, padding=20)
    span = altair.X("lowest_ratio:Q", scale=log, title="PyTorch's time over ours")
    points = altair.Chart(data).mark_point(filled=True, size=60, opacity=1)
    chart = altair.layer(
        altair.Chart(altair.Data(values=[{"one": 1}])).mark_rule(color="gray").encode(x="one:Q"),
        altair.Chart(data).mark_rule().encode(y=labels, x=span, x2="highest_ratio:Q"),
        points.encode(y=labels, x="ratio:Q"),
        title="Right of the line ours is faster",
    )
    chart.properties(width=500).save(path, scale_factor=2)
