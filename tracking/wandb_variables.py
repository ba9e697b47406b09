"""Environment of the W&B client: the variables that reach it, and those that can't have an effect.

The client reads each WANDB_* variable as a setting, and does not start if it refuses one of them.
"""

from collections.abc import Mapping
from pathlib import Path

# The variable that stands for a key of config.tracking.
VARIABLES = {
    "wandb_mode": "WANDB_MODE",
    "wandb_project": "WANDB_PROJECT",
    "wandb_entity": "WANDB_ENTITY",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
}
# A run sets these itself.
IGNORED = {
    "WANDB_ANONYMOUS": "W&B has ended it",
    "WANDB_CONFIG_PATHS": "the config is that of --config",
    "WANDB_CONSOLE": "a run's lines are in its Logs tab",
    "WANDB_DESCRIPTION": "WANDB_NOTES has its place",
    "WANDB_DIR": "W&B's files are in the run folder",
    "WANDB_FINISH_TIMEOUT": "the end of a run waits 10 s",
    "WANDB_FORK_FROM": "a run begins at step 0",
    "WANDB_INIT_TIMEOUT": "a start online waits 10 s",
    "WANDB_JOB_NAME": "no code is sent",
    "WANDB_NOTEBOOK_NAME": "no code is sent",
    "WANDB_PROGRAM": "no code is sent",
    "WANDB_RESUME": "--config.checkpoint.resume continues a run",
    "WANDB_RESUME_FROM": "--config.checkpoint.resume continues a run",
    "WANDB_RUN_DIR": "W&B's files are in the run folder",
    "WANDB_SAVE_CODE": "no code is sent",
    "WANDB_SHOW_RUN": "a run prints its address",
}
# They ask for what a run does in any case.
DONE = ("WANDB_DISABLE_CODE", "WANDB_DISABLE_GIT", "WANDB_QUIET", "WANDB_SILENT")
# The client reads them as whole numbers while it is imported.
WHOLE = ("WANDB_HTTP_TIMEOUT", "WANDB_FILE_PUSHER_TIMEOUT")
PREFIX = "WANDB_"


def for_client(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a process that imports the client.

    An empty variable is an unset one. An API key from a file has a line end, and no shell expands
    the ~ in a file of variables.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    left_out = {*VARIABLES.values(), *DONE, *ignored(environ)}
    for name, value in _given(environ).items():
        if name not in left_out:
            is_path = name.endswith(("_DIR", "_FILE")) and value.startswith("~")
            kept[name] = str(Path(value).expanduser()) if is_path else value
    return kept


def ignored(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that have no effect on a run, each with the reason."""
    given = _given(environ)
    found = {name: reason for name, reason in IGNORED.items() if name in given}
    if "WANDB_SWEEP_ID" in given:
        found.pop("WANDB_DIR", None)  # W&B's agent sets it, to pass parameters through files.
    found |= {
        name: f"{given[name]!r:.40} is no whole number"
        for name in WHOLE
        if name in given and not given[name].isdecimal()
    }
    return found


def _given(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns W&B's variables that are not empty, without the blanks around their values."""
    return {
        name: value.strip()
        for name, value in environ.items()
        if name.startswith(PREFIX) and value.strip()
    }
