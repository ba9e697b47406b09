"""Panels of W&B's dashboards of this project, for the workspace and the report.

A panel names a metric as a run logs it, slash included. Curves and bars group runs by their W&B
group, the experiment with its presets unless a config sets another.

A config key has dots: `config.optimizer.learning_rate`. wandb_workspaces takes them for nesting and
has no way to spell a flat key in a panel (W&B has open issues with such keys: wandb issues 1847 and
6222). W&B itself addresses a flat key with `.value` at its end, as wandb_workspaces documents for
grouping, so the axes of `sweeps` spell that out; no other panel needs a key.
"""

from typing import Any

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
# Norms of each layer, which runs log with train.log_norms_every_steps: expression, title.
NORMS = (
    ("^norms/grad/", "gradient norm of each layer, before clipping"),
    ("^norms/param/", "parameter norm of each layer"),
)
# Costs of a run: summary metric, title.
COSTS = (("num_params", "parameters"), ("train_flops", "FLOPs of training"))
# Config keys that sweeps vary: key, title, True for a logarithmic axis.
SWEPT = (
    ("model.name", "stage", False),
    ("model.num_layers", "layers", False),
    ("model.embed_dim", "width", False),
    ("model.context_length", "context", False),
    ("model.dropout_rate", "dropout", False),
    ("train.batch_size", "batch", False),
    ("optimizer.learning_rate", "learning rate", True),
)
GROUP = "Group"


def losses() -> list:
    """Returns curves of the validation loss, one panel for each of `POSITIONS`."""
    return [
        _lines(f"validation loss against {title}", metric, "val/loss", title, log_x=True)
        for metric, title in POSITIONS
    ]


def bits_per_byte() -> Any:
    """Returns bars of the bits per byte of the validation text."""
    import wandb_workspaces.reports.v2 as wr

    return wr.BarPlot(
        title="bits per byte of validation text",
        metrics=["val/bits_per_byte"],
        groupby=GROUP,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )


def samples() -> Any:
    """Returns the table of the texts that runs wrote during training."""
    import wandb_workspaces.reports.v2 as wr

    return wr.WeavePanelSummaryTable(table_name="samples")


def training() -> list:
    """Returns curves of the metrics in `TRAINING`."""
    return [_lines(title, "step", metric, "updates", log_x=False) for metric, title in TRAINING]


def norms() -> list:
    """Returns curves of the norms of all layers, in one panel those of the gradient."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title,
            "step",
            metric_regex=expression,
            title_x="updates",
            log_y=True,
            groupby=GROUP,
            groupby_aggfunc="mean",
            smoothing_type="none",
        )
        for expression, title in NORMS
    ]


def costs() -> list:
    """Returns the last validation loss against `COSTS`, a point for each run or group."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.ScatterPlot(
            title=f"validation loss against {title}",
            x=wr.SummaryMetric(cost),
            y=wr.SummaryMetric("val/loss"),
            log_x=True,
        )
        for cost, title in COSTS
    ]


def sweeps() -> list:
    """Returns what a sweep found: its settings beside the loss, their importance, its progress."""
    import wandb_workspaces.reports.v2 as wr

    class FlatKey(wr.ParallelCoordinatesPlotColumn):
        """Axis of a config key with dots; the library's own would name a nested key."""

        def _to_model(self) -> Any:
            column = super()._to_model()
            column.accessor = column.accessor.replace(".value", "", 1) + ".value"
            return column

    axes = [
        FlatKey(metric=wr.Config(f"config.{key}"), display_name=title, log=log)
        for key, title, log in SWEPT
    ]
    loss = wr.ParallelCoordinatesPlotColumn(
        metric=wr.SummaryMetric("val/loss"), display_name="validation loss"
    )
    return [
        wr.ParallelCoordinatesPlot(title="settings and validation loss", columns=[*axes, loss]),
        wr.ParameterImportancePlot(with_respect_to="val/loss"),
        wr.ScatterPlot(
            title="validation loss of each run, and the lowest so far",
            x=wr.Metric("CreatedTimestamp"),
            y=wr.SummaryMetric("val/loss"),
            running_ymin=True,
        ),
    ]


def _lines(title: str, x: str, y: str, title_x: str, log_x: bool) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title,
        x,
        [y],
        title_x=title_x,
        log_x=log_x,
        groupby=GROUP,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        smoothing_type="none",
    )


def describe(panel: Any) -> str:
    """Returns one line about a panel: its kind, metric, x-axis and grouping."""
    scale = ", logarithmic" if getattr(panel, "log_x", False) else ""
    match type(panel).__name__:
        case "LinePlot":
            drawn = panel.metric_regex or panel.y[0]
            return f"lines: {drawn} against {panel.x}{scale}, grouped by experiment"
        case "BarPlot":
            return f"bars: {panel.metrics[0]}, the last of each run, grouped by experiment"
        case "ScatterPlot":
            return f"points: {panel.y.name} against {panel.x.name}{scale}, one a run or group"
        case "ParallelCoordinatesPlot":
            axes = ", ".join(column.metric.name for column in panel.columns)
            return f"parallel coordinates: {axes}"
        case "ParameterImportancePlot":
            return f"importance of each setting for {panel.with_respect_to}"
    return f"table: {panel.table_name}"
