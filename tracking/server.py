"""Calls of W&B's server outside of a run: limits for the client, and its errors as one line."""

import contextlib
import os
import threading
from collections.abc import Iterator

from runtime.errors import UserError
from tracking import wandb_limits, wandb_variables

# The variable in which the client keeps the address of its service process.
SERVICE = "WANDB_SERVICE"
# Limit for W&B's service process to end, which takes it half a second or never.
END_SECONDS = 5


@contextlib.contextmanager
def calls(failed: str, hint: str = "") -> Iterator[None]:
    """Runs a block that imports wandb and calls the server.

    A service process of W&B's that it started has ended. Raises UserError for any other error in
    it: the words `failed`, the reason, and `hint`.
    """
    before = dict(os.environ)
    owner = {name: before[name].strip() for name in ("WANDB_ENTITY",) if name in before}
    os.environ.clear()
    # Per query; by default the client retries for minutes. Read when wandb is imported.
    os.environ |= {"WANDB_HTTP_TIMEOUT": "15"} | wandb_variables.for_client(before) | owner
    # W&B then reports a missing key as an error and does not prompt for one.
    os.environ["WANDB_SILENT"] = "true"
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        # For a server that does not answer, the client's own message blames its local process.
        if "did not respond in time" in reason:
            reason = f"no answer from the server within {os.environ['WANDB_HTTP_TIMEOUT']} s"
        raise UserError(
            f"{failed} ({reason}): check the network, WANDB_BASE_URL and `wandb login`{hint}"
        ) from None
    finally:
        # A notebook's own service goes on.
        if SERVICE in os.environ and SERVICE not in before:
            _end_service()
        os.environ.clear()
        os.environ |= before


def _end_service() -> None:
    """Ends W&B's service process, in `END_SECONDS` at most.

    W&B's exit hook, which this removes, would wait for it without a limit.
    """
    import wandb

    def end() -> None:
        with contextlib.suppress(Exception):  # Of a service that has been killed.
            wandb.teardown()

    # A service that does not end now, ends when it sees that this process has.
    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(END_SECONDS)


def check_project(project: str) -> None:
    """Raises UserError for a project's name that W&B does not have."""
    if not project or "/" in project:
        raise UserError(
            f"--project={project}: expected a project's name without a slash; its owner is --entity"
        )
    if message := wandb_limits.find_error("--project", "wandb_project", project):
        raise UserError(message)


def owner(entity: str) -> str:
    """Returns `entity`, or the account's default. Raises UserError if it has none."""
    import wandb

    if found := entity or wandb.Api().default_entity or "":
        return found
    raise UserError("--entity= is empty and your account has no default: set it")


def no_project(entity: str, project: str) -> UserError:
    """Returns the error for a project that W&B does not show to this account."""
    return UserError(
        f"--project={project}: W&B shows you no project {entity}/{project}; upload a run first, or "
        "set another --project or --entity"
    )
