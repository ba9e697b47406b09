"""The comparison of the stages as a W&B workspace: `python -m tracking.workspace --project=...`.

Every panel groups runs by their W&B group, which is the stage unless a config says otherwise. Run
again, it replaces what it made before under the same name, and with it what was changed there by
hand: save that under a name of its own. `--dry_run` prints what would be made, without a server.

A panel names a metric as a run logs it, slash and all. No panel names a config key with a dot in
it: wandb_workspaces can't tell the flat key `config.model.name` from nested ones (only in grouping
may `.value` be put in its place by hand), and W&B has had trouble with such keys (wandb issues 1847
and 6222). Hence the group for grouping and the summary for the rest; parallel coordinates, which
would need those keys, W&B draws by itself on the page of each sweep.
"""

import hashlib
import os
import sys
from typing import Any

from absl import flags

from experiments import default
from runtime import errors

# What the loss is drawn against: metric, axis title. All four axes are logarithmic: stages differ
# by orders of magnitude, and the untrained model, at 0, does not squeeze the losses that matter.
POSITIONS = (
    ("tokens_seen", "tokens seen"),
    ("seconds", "seconds of training"),
    ("train_flops", "FLOPs of training"),
    ("step", "updates"),
)
# What belongs to training alone: metric, title.
TRAINING = (
    ("train/loss", "training loss, one batch"),
    ("train/learning_rate", "learning rate"),
    ("train/grad_norm", "gradient norm, before clipping"),
    ("train/tokens_per_second", "tokens per second"),
)
# What a stage costs, for where the loss ends: name in the summary, axis title.
COSTS = (("num_params", "parameters"), ("train_flops", "FLOPs of training"))
# The list of runs shows these of their summary; the rest is a click away.
COLUMNS = ("val/loss", "val/bits_per_byte", "num_params", "tokens_seen", "train_flops", "seconds")
STAGE = "Group"
SERVER_SECONDS = 15


def build(entity: str, project: str, name: str) -> Any:
    """The workspace, as wandb_workspaces has it. Asks nobody.

    Raises UserError for a project or a name that W&B has no place for.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    if not project or "/" in project:
        raise errors.UserError(
            f"--project={project} is not the name of a project; whose it is goes to --entity"
        )
    if not name:
        raise errors.UserError("--name= is empty: a workspace has a name")
    in_columns = ws.SectionLayoutSettings
    sections = [
        ws.Section("What each idea buys", [*_losses(), _bits()], is_open=True),
        ws.Section(
            "What they write",
            # Text is wide.
            [wr.WeavePanelSummaryTable(table_name="samples")],
            is_open=True,
            layout_settings=in_columns(columns=1, rows=1),
        ),
        ws.Section(
            "Training",
            [_lines(metric, title, "step", "updates") for metric, title in TRAINING],
            is_open=True,
            layout_settings=in_columns(columns=2, rows=2),
        ),
        ws.Section(
            "Where the loss ends, against what it cost",
            [_points(cost, title) for cost, title in COSTS],
            is_open=True,
            layout_settings=in_columns(columns=2, rows=1),
        ),
    ]
    try:
        workspace = ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=sections,
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
            f"--name={name} can't be the name of a workspace: W&B takes no emoji there, and no "
            "symbol such as + or ="
        ) from None
    workspace._internal_name = view_name(name)
    return workspace


def _lines(metric: str, title: str, x: str, x_title: str, log: bool = False) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=title,
        x=x,
        y=[metric],
        title_x=x_title,
        log_x=log,
        groupby=STAGE,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        smoothing_type="none",
    )


def _losses() -> list:
    return [
        _lines("val/loss", f"validation loss against {title}", metric, title, log=True)
        for metric, title in POSITIONS
    ]


def _bits() -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.BarPlot(
        title="bits per byte of validation text",
        metrics=["val/bits_per_byte"],
        groupby=STAGE,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )


def _points(cost: str, title: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(
        title=f"validation loss against {title}",
        x=wr.SummaryMetric(cost),
        y=wr.SummaryMetric("val/loss"),
        log_x=True,
    )


def view_name(name: str) -> str:
    """What W&B keeps the workspace called `name` under, in the form of its own random names.

    The same every time, so that a second call finds what the first one made; another for each
    name, or one workspace would replace another.
    """
    return f"nw-{hashlib.sha256(name.encode()).hexdigest()[:11]}-v"


def outline(workspace: Any) -> str:
    """The sections and panels, a line each."""
    shown = [f"workspace {workspace.name!r} in {workspace.entity}/{workspace.project}"]
    shown.append("runs grouped by stage (their W&B group), best val/loss first")
    for section in workspace.sections:
        shown.append(f"  {section.name}")
        shown += [f"    {describe(panel)}" for panel in section.panels]
    return "\n".join(shown)


def describe(panel: Any) -> str:
    """A panel in words: what it draws, against what, grouped by what."""
    kind = type(panel).__name__
    scale = ", logarithmic" if getattr(panel, "log_x", False) else ""
    if kind == "LinePlot":
        return f"lines: {panel.y[0]} against {panel.x}{scale}, grouped by stage"
    if kind == "BarPlot":
        return f"bars: {panel.metrics[0]}, the last of each run, grouped by stage"
    if kind == "ScatterPlot":
        return f"points: {panel.y.name} against {panel.x.name}{scale}, one for each stage"
    return f"table: {panel.table_name}"


def save(project: str, entity: str, name: str) -> tuple[str, bool]:
    """Builds the workspace on the server. Its address, and whether it replaced an earlier one.

    Raises UserError if the server can't be reached or will not have it.
    """
    # W&B's own way to say that it is to ask for no key on the terminal: a missing one is an error.
    os.environ["WANDB_SILENT"] = "true"
    # A question; otherwise the client asks it again for minutes. Read when wandb is imported.
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(SERVER_SECONDS))
    workspace = build(entity, project, name)
    import wandb

    try:
        workspace.entity = entity or wandb.Api().default_entity or ""
        if not workspace.entity:
            raise errors.UserError("your account has no default entity: name one by --entity")
        workspace._internal_id = _earlier(workspace)
        replaced = bool(workspace._internal_id)
        return workspace.save().url, replaced
    except errors.UserError:
        raise
    except Exception as error:
        raise errors.UserError(
            f"W&B did not take the workspace ({_reason(error)}): check the network, WANDB_BASE_URL "
            "and `wandb login`; --dry_run needs none of them"
        ) from None


def _earlier(workspace: Any) -> str:
    """W&B's id for what was saved under this name before; empty if nothing was."""
    from wandb_workspaces.workspaces import internal

    plain = internal._internal_name_to_url_query_str(workspace._internal_name)
    try:
        return internal.get_view_dict(workspace.entity, workspace.project, plain)["id"]
    except ValueError as missing:
        # It says in the same way that this is the first one, and that there is no project.
        if str(missing).startswith("Workspace"):
            return ""
        if not str(missing).startswith("Project"):
            raise
        raise errors.UserError(
            f"there is no project {workspace.entity}/{workspace.project} that you can see: upload "
            "a run first, or name another by --project and --entity"
        ) from None


def _reason(error: Exception) -> str:
    """What went wrong, on one line and in words that hold."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    # The client's words for a server that is down or silent speak of a busy process of its own.
    if "did not respond in time" in text:
        return f"no answer from the server within {os.environ['WANDB_HTTP_TIMEOUT']} s"
    return text


def main() -> None:
    flag = flags.FLAGS
    if flag.dry_run:
        entity = flag.entity or "<your entity>"
        print(outline(build(entity, flag.project, flag.name)), flush=True)
        return
    url, replaced = save(flag.project, flag.entity, flag.name)
    print(f"workspace: {url}")
    print(
        f"It took the place of the earlier one called {flag.name!r}."
        if replaced
        else "It is new; the same command replaces it, with --name=... it makes another.",
        flush=True,
    )


def define_flags() -> None:
    """The flags of the command."""
    tracking = default.get_config().tracking
    flags.DEFINE_string("project", tracking.wandb_project, "The W&B project of the runs.")
    flags.DEFINE_string("entity", tracking.wandb_entity, "Whose project. Default: your own.")
    flags.DEFINE_string("name", "Stages side by side", "What the workspace is called.")
    flags.DEFINE_bool("dry_run", False, "Print what would be made; no server is needed.")


if __name__ == "__main__":
    define_flags()
    try:
        errors.run_command(main)
    except SystemExit as end:
        sys.stdout.flush()
        # Past W&B's exit hook, which waits for a server that does not answer without a limit.
        os._exit(end.code or 0)
