"""W&B Report that compares the stages, for `python -m tracking.workspace --report`.

Unlike a workspace it is a page of text and panels, which one can send to others. It has the panels
of the workspace, drawn from all runs of the project, and the order of reporting's page.
"""

import importlib
from typing import Any

from experiments import default
from runtime.errors import UserError
from tracking import panels, server

LEAD = (
    "How well each model predicts text that it was not trained on: the lower the loss, the better. "
    "Each stage adds one idea to the one before:"
)
CURVES = (
    "Mean and range of the runs of one experiment and preset. Stages are comparable where they had "
    "the same compute: read the first panel from top to bottom."
)
MEASURED = (
    "The validation loss is exact: it scores every token of the validation split after the first "
    "once. Loss is the mean of -ln p(token) in nats; bits per byte divides all bits by all bytes. "
    "A metric at step n was measured after n updates. FLOPs count forward and backward pass and "
    "the optimizer's update."
)
# Columns of a grid of panels.
WIDTH = 24


def build(entity: str, project: str, name: str) -> Any:
    """Returns the Report, without a server. Raises UserError for a name that W&B refuses."""
    import wandb_workspaces.reports.v2 as wr

    server.check_project(project)
    runs = wr.Runset(
        entity=entity,
        project=project,
        name="runs by experiment",
        groupby=["group"],
        order=[wr.OrderBy(wr.SummaryMetric("val/loss"), ascending=True)],
    )

    def grid(*shown: Any, height: int = 10) -> wr.PanelGrid:
        width = WIDTH // len(shown)
        for place, panel in enumerate(shown):
            panel.layout = wr.Layout(x=place * width, y=0, w=width, h=height)
        return wr.PanelGrid(runsets=[runs], panels=list(shown))

    against = dict(zip((metric for metric, _ in panels.POSITIONS), panels.losses(), strict=True))
    blocks: list[Any] = [
        wr.P(LEAD),
        wr.OrderedList(items=[*_ideas()]),
        wr.H2("Loss during training"),
        wr.P(CURVES),
        grid(against["train_flops"], against["tokens_seen"]),
        wr.H2("Bits per byte"),
        grid(panels.bits_per_byte()),
        wr.H2("Final loss against its cost"),
        grid(*panels.costs()),
        wr.H2("Samples"),
        grid(panels.samples(), height=16),
        wr.H2("How the numbers are measured"),
        wr.P(MEASURED),
    ]
    try:
        return wr.Report(entity=entity, project=project, title=name, width="fluid", blocks=blocks)
    except ValueError:
        raise UserError(f"--name={name}: expected a name of 1 to 128 characters") from None


def _ideas() -> list[str]:
    """Returns each stage with the idea that it adds, as its experiment states it."""
    configs = {name: importlib.import_module(f"experiments.{name}") for name in default.LADDER}
    return [f"{name}: {module.get_config().tracking.notes}" for name, module in configs.items()]


def outline(report: Any) -> str:
    """Returns the headings and panels as text, one per line."""
    shown = [f"report {report.title!r} in {report.entity}/{report.project}"]
    for block in report.blocks:
        match type(block).__name__:
            case "H2":
                shown.append(f"  {block.text}")
            case "PanelGrid":
                shown += [f"    {panels.describe(panel)}" for panel in block.panels]
    return "\n".join(shown)


def save(entity: str, project: str, name: str) -> tuple[str, bool]:
    """Saves the report on the server; returns its URL, and True if it replaced an earlier one.

    Raises UserError if the server can't be reached or refuses the report.
    """
    with server.calls("W&B did not accept the report", "; --dry_run needs none of them"):
        entity = server.owner(entity)
        report = build(entity, project, name)
        report.id = earlier_id = _earlier_id(entity, project, name)
        return report.save().url, bool(earlier_id)


def _earlier_id(entity: str, project: str, name: str) -> str:
    """Returns W&B's id of the saved report of this name; empty if there is none."""
    import wandb

    try:
        known = list(wandb.Api().reports(f"{entity}/{project}"))
    except ValueError as missing:
        # W&B's library would create the project.
        raise server.no_project(entity, project) from missing
    return next((report.id for report in known if report.display_name == name), "")
