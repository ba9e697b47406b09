"""Settings of a run's mirror in W&B: a flag comes before a variable, a variable before a default.

What W&B would refuse is an error before the run begins: its client would lose the mirror, and
`wandb sync` the offline run.
"""

import os
import re
from collections.abc import Container
from pathlib import Path
from urllib.parse import urlsplit

from ml_collections import ConfigDict

import run_folder
from config import list_flags
from runtime.errors import UserError
from tracking import sweep
from tracking.artifact import sent_environment
from tracking.wandb_limits import LIMITS, RUN_ID, find_error
from tracking.wandb_variables import VARIABLES

MODES = ("offline", "online", "disabled")
# Other values of WANDB_MODE, and what each means for a single process.
SYNONYMS = {"dryrun": "offline", "run": "online", "shared": "online"}
# W&B's agent sets these for a sweep's runs, which it looks for there.
OF_SWEEP = ("wandb_project", "wandb_entity")
BASE_URL = "WANDB_BASE_URL"


def with_environment(config: ConfigDict, chosen: Container[str]) -> ConfigDict:
    """Returns `config` with W&B's variables, but for the keys in `chosen`, which flags have set."""
    config = config.copy_and_resolve_references()
    in_sweep = bool(os.environ.get("WANDB_SWEEP_ID"))
    for key, variable in VARIABLES.items():
        value = os.environ.get(variable, "").strip()
        if value and (f"tracking.{key}" not in chosen or (in_sweep and key in OF_SWEEP)):
            config.tracking[key] = list_flags.split(value) if key == "tags" else value
    mode = config.tracking.wandb_mode
    if mode == os.environ.get("WANDB_MODE", "").strip():
        config.tracking.wandb_mode = SYNONYMS.get(mode, mode)
    return config.lock()


def is_on(tracking: ConfigDict) -> bool:
    """Returns True if the run has a mirror in W&B."""
    return "wandb" in tracking.sinks and tracking.wandb_mode != "disabled"


def check(tracking: ConfigDict) -> None:
    """Raises UserError for all that W&B would refuse, which names flags or variables."""
    found = []
    if tracking.wandb_mode not in MODES:
        where = _source("wandb_mode", tracking.wandb_mode)
        found.append(f"{where}={tracking.wandb_mode!r}: expected one of {', '.join(MODES)}")
    elif is_on(tracking):
        if not tracking.wandb_project:
            found.append("--config.tracking.wandb_project='': expected a project's name")
        texts = [(key, getattr(tracking, key)) for key in LIMITS if key not in ("tags", RUN_ID)]
        texts += [("tags", tag) for tag in tracking.tags]
        found += [find_error(_source(key, text), key, text) for key, text in texts]
        found += [find_error(RUN_ID, RUN_ID, os.environ.get(RUN_ID, "").strip()), _url_error()]
    if found := [message for message in found if message]:
        raise UserError("; ".join(found))


def _source(key: str, text: str) -> str:
    """Returns the variable that has the text, or else the flag of the key."""
    variable = VARIABLES[key]
    value = os.environ.get(variable, "").strip()
    return variable if text in (value, *list_flags.split(value)) else f"--config.tracking.{key}"


def _url_error() -> str:
    """Returns a message for an address to which the client would not send anything."""
    address = os.environ.get(BASE_URL, "").strip()
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if not address:
        return ""
    if parts.scheme not in ("http", "https") or not host:
        return f"{BASE_URL}={address!r}: expected the server's address, https://HOST"
    if re.search(r"(^|\.)wandb\.ai$", host) and not address.startswith("https://api."):
        return f"{BASE_URL}={address!r}: expected https://api.wandb.ai, the address of W&B's API"
    return ""


def init_arguments(config: ConfigDict, workdir: Path, num_params: int) -> dict:
    """Returns the settings of the W&B run, from the config and the run folder's environment.json.

    They have the names that wandb.init gives them. A name that is made up here is cut to W&B's
    limit.
    """
    tracking, swept = config.tracking, sweep.current()
    made_up = {
        "name": swept.name if swept else workdir.resolve().name,
        "group": tracking.experiment or config.model.name,
        "job_type": "sweep" if swept else "train",
    }
    presets = [part[: LIMITS["tags"].length] for part in re.split("[:+]", tracking.experiment)]
    return {
        "mode": tracking.wandb_mode,
        "dir": str(workdir.resolve()),
        "project": tracking.wandb_project,
        "entity": tracking.wandb_entity,
        **{key: tracking[key] or text[: LIMITS[key].length] for key, text in made_up.items()},
        "tags": [tag for tag in dict.fromkeys((*presets, *tracking.tags)) if tag],
        "notes": tracking.notes or None,
        # Named as flags and sweeps name them, so that a sweep adds no second column for a key.
        "config": {
            **run_folder.flatten(config.to_dict(), "config."),
            **{f"env.{key}": value for key, value in sent_environment(workdir).items()},
            "num_params": num_params,
        },
    }
