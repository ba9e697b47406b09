"""W&B run of what look_inside.py found: the page, its figures, a table of heads, and numbers."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from tracking import server, wandb_settings

JOB_TYPE = "inspect"
# Limit for the upload.
FINISH_SECONDS = 60


def mirror(
    config: ConfigDict,
    folder: Path,
    mode: Literal["offline", "online"],
    *,
    page: str,
    figures: Mapping[str, str],
    heads: Sequence[Mapping[str, Any]],
    numbers: Mapping[str, float | None],
) -> str:
    """Returns the address of the run that has all of it, or the command that uploads the run.

    Project and owner are those of a run's `config`, or of W&B's variables; `figures` are SVGs by
    name, and `mode` is offline or online. Raises UserError if W&B can't be used.
    """
    tracking = wandb_settings.with_environment(config, ()).tracking
    wandb_settings.check(tracking)
    with server.calls("the W&B run was not made"):
        import wandb

        run = wandb.init(
            mode=mode,
            dir=str(folder),
            project=tracking.wandb_project,
            entity=tracking.wandb_entity or None,
            job_type=JOB_TYPE,
            name=f"inside {folder.resolve().name}",
            settings=wandb.Settings(
                console="off",
                silent=True,
                x_disable_stats=True,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        shown: dict[str, Any] = {"inside": wandb.Html(page, inject=False)}
        # As HTML: an image of W&B's needs Pillow, and an SVG is as sharp as its place is large.
        shown |= {f"inside/{name}": wandb.Html(svg, inject=False) for name, svg in figures.items()}
        if heads:
            columns = list(heads[0])
            rows = [[head.get(column) for column in columns] for head in heads]
            shown["inside/heads"] = wandb.Table(columns=columns, data=rows)
        run.log(shown)
        run.summary.update(dict(numbers))
        address, written = run.url, shlex.quote(os.path.relpath(Path(run.dir).parent))
        try:
            run.finish()
        except TimeoutError:
            late = f"W&B did not take all of it within {FINISH_SECONDS} s"
            return f"{late}; upload the rest: wandb sync --include-online {written}"
    return f"in W&B: {address}" if mode == "online" else f"upload it: wandb sync {written}"
