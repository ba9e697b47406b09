"""Limits of the texts that W&B takes, by the key of config.tracking."""

from typing import NamedTuple

RUN_ID = "WANDB_RUN_ID"


class Limit(NamedTuple):
    """Limits of one text: its length, and the characters that may not be in it."""

    length: int
    without: str = ""


# From the client's settings, its documentation of WANDB_RUN_ID, and the server's refusals.
IN_ADDRESS = "/\\#?%:"
LIMITS = {
    "wandb_project": Limit(128, IN_ADDRESS),
    "wandb_entity": Limit(128, IN_ADDRESS + " "),
    "name": Limit(128),
    "group": Limit(128),
    "job_type": Limit(64),
    "tags": Limit(64),
    RUN_ID: Limit(64, IN_ADDRESS + ";,'"),
}


def find_error(source: str, key: str, text: str) -> str:
    """Returns a message if W&B does not take `text`, else ""; `source` is its flag or variable."""
    limit = LIMITS[key]
    what = f"{source}={text!r:.60}"
    if len(text) > limit.length:
        return f"{what} has {len(text)} characters: W&B takes {limit.length} at most; shorten it"
    if not set(text).isdisjoint(limit.without):
        hint = "; a project's owner is a setting of its own, its entity" * ("project" in key)
        excluded = " ".join(limit.without).rstrip() + " or blanks" * (" " in limit.without)
        return f"{what}: W&B takes none of {excluded} in it{hint}"
    return ""
