"""The comparison of the stages as a W&B workspace: `python -m tracking.workspace --project=...`.

Every panel groups runs by their W&B group, which is the stage unless a config says otherwise. Run
again, it replaces what it made before under the same name, and with it what was changed there by
hand: save that under a name of its own. `--dry_run` prints what would be made, without a server.
W&B itself puts parallel coordinates on the page of each sweep.
"""

import os
import re
import sys
from typing import Any

from absl import flags

import errors
from experiments import default

# What curves are drawn against: metric, axis title, logarithmic or not.
POSITIONS = (
    ("tokens_seen", "tokens seen", True),
    ("seconds", "seconds of training", True),
    ("train_flops", "FLOPs of training", True),
    ("step", "updates", False),
)
# What belongs to training alone: metric, title.
TRAINING = (
    ("train/loss", "training loss, one batch"),
    ("train/learning_rate", "learning rate"),
    ("train/grad_norm", "gradient norm, before clipping"),
    ("train/tokens_per_second", "tokens per second"),
)
STAGE = "Group"
SERVER_SECONDS = 15


def build(entity: str, project: str, name: str) -> Any:
    """The workspace, as wandb_workspaces has it. Asks nobody."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def lines(
        metric: str, title: str, x: str = "step", x_title: str = "updates", log: bool = False
    ):
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

    losses = [
        lines("val/loss", f"validation loss against {title}", metric, title, log)
        for metric, title, log in POSITIONS
    ]
    bits = wr.BarPlot(
        title="bits per byte of validation text",
        metrics=["val/bits_per_byte"],
        groupby=STAGE,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name="What each idea buys", panels=[*losses, bits], is_open=True),
            ws.Section(
                name="What they write",
                panels=[wr.WeavePanelSummaryTable(table_name="samples")],
                is_open=True,
            ),
            ws.Section(
                name="Training",
                panels=[lines(metric, title) for metric, title in TRAINING],
                is_open=True,
            ),
        ],
        settings=ws.WorkspaceSettings(x_axis="step", smoothing_type="none"),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric(STAGE)]),
    )
    # The same name every time, so that a second call finds what the first one made.
    workspace._internal_name = f"nw-{slug(name)}-v"
    return workspace


def slug(name: str) -> str:
    """`name` as part of a W&B address."""
    return re.sub(r"[^a-z0-9]+", "", name.lower()) or "stages"


def outline(workspace: Any) -> str:
    """The sections and panels, a line each."""
    shown = [f"workspace {workspace.name!r} in {workspace.entity}/{workspace.project}"]
    for section in workspace.sections:
        shown.append(f"  {section.name}")
        shown += [f"    {describe(panel)}" for panel in section.panels]
    return "\n".join(shown)


def describe(panel: Any) -> str:
    """A panel in words: what it draws, against what, grouped by what."""
    kind = type(panel).__name__
    if kind == "LinePlot":
        scale = ", logarithmic" if panel.log_x else ""
        return f"lines: {panel.y[0]} against {panel.x}{scale}, grouped by stage"
    if kind == "BarPlot":
        return f"bars: {panel.metrics[0]}, grouped by stage"
    return f"table: {panel.table_name}"


def save(project: str, entity: str, name: str) -> str:
    """Builds the workspace on the server; its address.

    Raises UserError if the server can't be reached or will not have it.
    """
    import wandb
    from wandb_workspaces.workspaces import internal

    # Otherwise the client asks again for minutes.
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(SERVER_SECONDS))
    try:
        api = wandb.Api(timeout=SERVER_SECONDS)
        entity = entity or api.default_entity
        if not entity:
            raise errors.UserError("your account has no default entity: name one by --entity")
        workspace = build(entity, project, name)
        try:
            view = internal.View.from_name(entity, project, workspace._internal_name)
        except ValueError as missing:
            if "Project" in str(missing):
                raise errors.UserError(
                    f"there is no project {entity}/{project} that you can see: upload a run first, "
                    "or name another by --project and --entity"
                ) from None
        else:
            workspace._internal_id = view.id
        return workspace.save().url
    except errors.UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise errors.UserError(
            f"W&B did not take the workspace ({reason}): check the network and `wandb login`; "
            "--dry_run needs neither"
        ) from None


def main() -> None:
    flag = flags.FLAGS
    if flag.dry_run:
        entity = flag.entity or "<your entity>"
        print(outline(build(entity, flag.project, flag.name)))
        return
    print(f"workspace: {save(flag.project, flag.entity, flag.name)}")


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
