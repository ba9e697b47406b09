"""W&B workspace that compares the stages: `python -m tracking.workspace --project=...`.

It groups runs by their W&B group, the experiment with its presets unless a config sets another.
`--sweeps` makes another one, whose runs are not grouped, for what sweeps found, and `--report` a
page of text and panels (report.py). A second call replaces the workspace, or report, of the same
name, manual changes included: save those under another name.
`--dry_run` prints the panels and needs no server.
"""

import hashlib
import os
from typing import Any

from absl import flags

from experiments import default
from runtime import errors
from tracking import panels, report, server

# Columns of the list of runs, from their summary.
COLUMNS = ("val/loss", "val/bits_per_byte", "num_params", "tokens_seen", "train_flops", "seconds")

CONFIG = default.get_config().tracking
PROJECT = flags.DEFINE_string(
    "project",
    os.environ.get("WANDB_PROJECT", "").strip() or CONFIG.wandb_project,
    "W&B project of the runs.",
)
ENTITY = flags.DEFINE_string("entity", CONFIG.wandb_entity, "Owner of the project; default: yours.")
SWEEPS = flags.DEFINE_bool("sweeps", False, "Make the workspace of sweeps.")
REPORT = flags.DEFINE_bool("report", False, "Make a report of the stages, not a workspace.")
NAME = flags.DEFINE_string("name", "", "Its name; default: Stages side by side, or Sweeps.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the panels; needs no server.")


def build(entity: str, project: str, name: str, of_sweeps: bool = False) -> Any:
    """Returns the Workspace, without a server. Raises UserError for a name that W&B refuses."""
    import wandb_workspaces.workspaces as ws

    server.check_project(project)
    try:
        workspace = ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=[_section("Sweeps", panels.sweeps())] if of_sweeps else _stages(),
            settings=ws.WorkspaceSettings(x_axis="step", smoothing_type="none"),
            runset_settings=ws.RunsetSettings(
                # In a grouped list a sweep would be one run, the mean of all.
                groupby=[] if of_sweeps else [ws.Metric(panels.GROUP)],
                # Best first: a panel draws the first ten groups of the list.
                order=[ws.Ordering(ws.Summary("val/loss"), ascending=True)],
                pinned_columns=[f"summary:{column}" for column in COLUMNS],
            ),
        )
    except ValueError:
        raise errors.UserError(
            f"--name={name}: expected a name that W&B accepts, without emoji and symbols such as "
            "+ or ="
        ) from None
    workspace._internal_name = view_name(name)
    return workspace


def _stages() -> list:
    losses = [*panels.losses(), panels.bits_per_byte()]
    return [
        _section("Validation loss of each stage", losses, columns=3),
        _section("Samples", [panels.samples()], rows=1),
        _section("Training", panels.training(), columns=2),
        _section("Final loss against its cost", panels.costs(), columns=2, rows=1),
        _section("Norms of layers", panels.norms(), columns=2, rows=1),
    ]


def _section(title: str, shown: list, columns: int = 1, rows: int = 2) -> Any:
    """Returns an open section; its one column is for text and axes, which are wide."""
    import wandb_workspaces.workspaces as ws

    layout = ws.SectionLayoutSettings(columns=columns, rows=rows)
    return ws.Section(title, shown, is_open=True, layout_settings=layout)


def view_name(name: str) -> str:
    """Returns W&B's internal name, in its own format: a hash, so one `name` is one workspace."""
    return f"nw-{hashlib.sha256(name.encode()).hexdigest()[:11]}-v"


def outline(workspace: Any) -> str:
    """Returns the sections and panels as text, one per line."""
    shown = [f"workspace {workspace.name!r} in {workspace.entity}/{workspace.project}"]
    grouped = "grouped by experiment (their W&B group)" * bool(workspace.runset_settings.groupby)
    shown.append(f"runs {grouped or 'one by one'}, best val/loss first")
    for section in workspace.sections:
        shown.append(f"  {section.name}")
        shown += [f"    {panels.describe(panel)}" for panel in section.panels]
    return "\n".join(shown)


def save(entity: str, project: str, name: str, of_sweeps: bool = False) -> tuple[str, bool]:
    """Saves the workspace on the server; returns its URL, and True if it replaced an earlier one.

    Raises UserError if the server can't be reached or refuses the workspace.
    """
    with server.calls("W&B did not accept the workspace", "; --dry_run needs none of them"):
        workspace = build(entity, project, name, of_sweeps)
        workspace.entity = server.owner(entity)
        workspace._internal_id = earlier_id = _earlier_id(workspace)
        return workspace.save().url, bool(earlier_id)


def _earlier_id(workspace: Any) -> str:
    """Returns W&B's id of the saved workspace of this name; empty if there is none."""
    from wandb_workspaces.workspaces import internal

    query = internal._internal_name_to_url_query_str(workspace._internal_name)
    try:
        return internal.get_view_dict(workspace.entity, workspace.project, query)["id"]
    except ValueError as missing:
        # The same exception for a missing workspace and a missing project.
        if str(missing).startswith("Workspace"):
            return ""
        if not str(missing).startswith("Project"):
            raise
        raise server.no_project(workspace.entity, workspace.project) from None


def main() -> None:
    entity, project = ENTITY.value, PROJECT.value
    if REPORT.value and SWEEPS.value:
        raise errors.UserError("--report --sweeps: expected one of them; the report has no sweeps")
    name = NAME.value or ("Sweeps" if SWEEPS.value else "Stages side by side")
    what = "report" if REPORT.value else "workspace"
    if DRY_RUN.value:
        owner = entity or "<your entity>"
        if REPORT.value:
            print(report.outline(report.build(owner, project, name)), flush=True)
        else:
            print(outline(build(owner, project, name, SWEEPS.value)), flush=True)
        return
    if REPORT.value:
        url, replaced = report.save(entity, project, name)
    else:
        url, replaced = save(entity, project, name, SWEEPS.value)
    print(f"{what}: {url}")
    how = "It is new: the same command replaces it, another --name=... creates another."
    print(f"It replaced the earlier {what} {name!r}." if replaced else how, flush=True)


if __name__ == "__main__":
    errors.run_command(main)
