"""W&B workspace that compares the stages: `python -m tracking.workspace --project=...`.

Every panel groups runs by their W&B group, which is the stage unless a config sets another. A
second call replaces the workspace of the same name, manual changes included: save those under
another name. `--dry_run` prints the panels and needs no server.

A panel names a metric as a run logs it, slash included. No panel names a config key that contains a
dot: wandb_workspaces can't distinguish the flat key `config.model.name` from nested ones (only
grouping accepts a hand-written `.value`), and W&B has open issues with such keys (wandb issues 1847
and 6222). Hence panels use the group and the summary. Parallel coordinates would need those keys;
W&B draws them by itself on the page of each sweep.
"""

import hashlib
import os
import sys
from functools import partial
from typing import Any

from absl import flags

from experiments import default
from runtime import errors

# X-axes of the loss: metric, title. All are logarithmic: stages differ by orders of magnitude, and
# the untrained model, at 0, does not squeeze the losses that matter.
POSITIONS = (
    ("tokens_seen", "tokens seen"),
    ("seconds", "seconds of training"),
    ("train_flops", "FLOPs of training"),
    ("step", "updates"),
)
# Metrics of training alone: metric, title.
TRAINING = (
    ("train/loss", "training loss, one batch"),
    ("train/learning_rate", "learning rate"),
    ("train/grad_norm", "gradient norm, before clipping"),
    ("train/tokens_per_second", "tokens per second"),
)
# Columns of the list of runs, from their summary.
COLUMNS = ("val/loss", "val/bits_per_byte", "num_params", "tokens_seen", "train_flops", "seconds")
STAGE = "Group"

CONFIG = default.get_config().tracking
PROJECT = flags.DEFINE_string("project", CONFIG.wandb_project, "W&B project of the runs.")
ENTITY = flags.DEFINE_string("entity", CONFIG.wandb_entity, "Owner of the project; default: yours.")
NAME = flags.DEFINE_string("name", "Stages side by side", "Name of the workspace.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the panels; needs no server.")


def build(entity: str, project: str, name: str) -> Any:
    """Returns the Workspace, without a server. Raises UserError for a name that W&B refuses."""
    import wandb_workspaces.workspaces as ws

    if not project or "/" in project:
        raise errors.UserError(
            f"--project={project}: expected a project's name without a slash; its owner is --entity"
        )
    if not name:
        raise errors.UserError("--name= is empty: expected a name for the workspace")
    try:
        workspace = ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=_sections(),
            settings=ws.WorkspaceSettings(x_axis="step", smoothing_type="none"),
            runset_settings=ws.RunsetSettings(
                groupby=[ws.Metric(STAGE)],
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


def _sections() -> list:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    lines = partial(
        wr.LinePlot,
        groupby=STAGE,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        smoothing_type="none",
    )

    def section(title: str, panels: list, columns: int = 3, rows: int = 2) -> ws.Section:
        layout = ws.SectionLayoutSettings(columns=columns, rows=rows)
        return ws.Section(title, panels, is_open=True, layout_settings=layout)

    losses = [
        lines(f"validation loss against {title}", metric, ["val/loss"], title_x=title, log_x=True)
        for metric, title in POSITIONS
    ]
    bits = wr.BarPlot(
        title="bits per byte of validation text",
        metrics=["val/bits_per_byte"],
        groupby=STAGE,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )
    training = [
        lines(title, "step", [metric], title_x="updates", log_x=False) for metric, title in TRAINING
    ]
    points = [
        wr.ScatterPlot(
            title=f"validation loss against {title}",
            x=wr.SummaryMetric(cost),
            y=wr.SummaryMetric("val/loss"),
            log_x=True,
        )
        for cost, title in (("num_params", "parameters"), ("train_flops", "FLOPs of training"))
    ]
    return [
        section("Validation loss of each stage", [*losses, bits]),
        # One column, because text is wide.
        section("Samples", [wr.WeavePanelSummaryTable(table_name="samples")], columns=1, rows=1),
        section("Training", training, columns=2),
        section("Final loss against its cost", points, columns=2, rows=1),
    ]


def view_name(name: str) -> str:
    """Returns W&B's internal name, in its own format: a hash, so one `name` is one workspace."""
    return f"nw-{hashlib.sha256(name.encode()).hexdigest()[:11]}-v"


def outline(workspace: Any) -> str:
    """Returns the sections and panels as text, one per line."""
    shown = [f"workspace {workspace.name!r} in {workspace.entity}/{workspace.project}"]
    shown.append("runs grouped by stage (their W&B group), best val/loss first")
    for section in workspace.sections:
        shown.append(f"  {section.name}")
        shown += [f"    {describe(panel)}" for panel in section.panels]
    return "\n".join(shown)


def describe(panel: Any) -> str:
    """Returns one line about a panel: its kind, metric, x-axis and grouping."""
    kind = type(panel).__name__
    scale = ", logarithmic" if getattr(panel, "log_x", False) else ""
    if kind == "LinePlot":
        return f"lines: {panel.y[0]} against {panel.x}{scale}, grouped by stage"
    if kind == "BarPlot":
        return f"bars: {panel.metrics[0]}, the last of each run, grouped by stage"
    if kind == "ScatterPlot":
        return f"points: {panel.y.name} against {panel.x.name}{scale}, one for each stage"
    return f"table: {panel.table_name}"


def save(entity: str, project: str, name: str) -> tuple[str, bool]:
    """Saves the workspace on the server; returns its URL, and True if it replaced an earlier one.

    Raises UserError if the server can't be reached or refuses the workspace.
    """
    # W&B then reports a missing key as an error and does not prompt for one.
    os.environ["WANDB_SILENT"] = "true"
    # Per query; by default the client retries for minutes. Read when wandb is imported.
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", "15")
    workspace = build(entity, project, name)
    import wandb

    try:
        workspace.entity = entity or wandb.Api().default_entity or ""
        if not workspace.entity:
            raise errors.UserError("--entity= is empty and your account has no default: set it")
        workspace._internal_id = earlier_id = _earlier_id(workspace)
        return workspace.save().url, bool(earlier_id)
    except errors.UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        # For a server that does not answer, the client's own message blames its local process.
        if "did not respond in time" in reason:
            reason = f"no answer from the server within {os.environ['WANDB_HTTP_TIMEOUT']} s"
        raise errors.UserError(
            f"W&B did not accept the workspace ({reason}): check the network, "
            "WANDB_BASE_URL and `wandb login`; --dry_run needs none of them"
        ) from None


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
        raise errors.UserError(
            f"--project={workspace.project}: W&B shows you no project {workspace.entity}/"
            f"{workspace.project}; upload a run first, or set another --project or --entity"
        ) from None


def main() -> None:
    entity, project, name = ENTITY.value, PROJECT.value, NAME.value
    if DRY_RUN.value:
        print(outline(build(entity or "<your entity>", project, name)), flush=True)
        return
    url, replaced = save(entity, project, name)
    print(f"workspace: {url}")
    how = "It is new: the same command replaces it, another --name=... creates another."
    print(f"It replaced the earlier workspace {name!r}." if replaced else how, flush=True)


if __name__ == "__main__":
    try:
        errors.run_command(main)
    except SystemExit as end:
        sys.stdout.flush()
        # Skips W&B's exit hook, which waits without a timeout for a server that does not answer.
        os._exit(int(end.code or 0))
