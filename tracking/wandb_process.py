"""The W&B process, started by wandb_run.py: reads events from standard input, one JSON per line.

    {"open": {...}}      first: the arguments of wandb.init, `id`, `kept`, the rows to keep, and
                         `id_file`, where the started run's id is kept for a resumed run
    {"row": {...}}       a line of metrics.jsonl
    {"sample": {...}}    a line of samples.jsonl
    {"console": "..."}   lines that the training printed
    {"alert": {...}}     the arguments of run.alert
    {"model": {...}}     an artifact: `type`, `name`, `aliases`, `metadata`, its `files` and
                         `contents` by name, and the `seconds` that its upload may take
    {"finish": {...}}    last: `summary` and `exit_code`

It answers on standard output: {"id": ..., "url": ...} of the run it started, {"note": ...} for the
user, {"lost": ...} when it fails. If the training process dies, the pipe closes, and this process
finishes the W&B run as failed, with every row that it was sent. That is why this process keeps the
id: the training may die before it reads the answer, while its rows arrive all the same.
"""

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Factor of all limits of time. On a machine that is busy for long this process, the nicest of all,
# may hardly run, and none of them would say anything about W&B. Tests set the variable.
PATIENCE = 1 if os.environ.get("BUSY_MACHINE", "") in ("", "0", "false") else 20
# Limits for W&B's start and, at the end, for its upload.
INIT_SECONDS = 10
FINISH_SECONDS = 10
# Each table holds the samples so far. Bounded, because the tables' total size grows with the square
# of the number of samples; samples.jsonl has all of them.
TABLE_ROWS = 100
# Online, the client queries the server before it logs a table, with this timeout. After a timeout
# no tables are logged for a while, or the rows behind them would queue up.
QUERY_SECONDS = 3
PAUSE_SECONDS = 60
# Parts of the first event that `wandb.init` does not take, or takes from the environment.
NOT_OF_INIT = ("id", "kept", "id_file", "project", "entity")
STEPS = ("step", "tokens_seen", "train_flops", "seconds")
TRAINING_PROCESS = os.getppid()


def main() -> None:
    os.nice(10)  # On a busy machine the training has priority.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # W&B's prints must not mix with the answers.
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(QUERY_SECONDS * PATIENCE))

    def answer(**message: str | None) -> None:
        # The training process may have died; the rows it sent must still be saved.
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    with tempfile.TemporaryDirectory(prefix="wandb-") as scratch:
        tempfile.tempdir = scratch
        try:
            mirror_events(map(json.loads, sys.stdin.buffer), answer)
        # SystemExit too: W&B raises it when its service process fails.
        except BaseException as error:
            answer(lost=_one_line(error))
    # Skips W&B's exit hooks, which wait for its service without a timeout.
    os._exit(0)


def mirror_events(events: Iterator[dict], answer: Callable[..., None]) -> None:
    """Starts the W&B run of the first event, logs the others to it, and finishes it.

    Raises W&B's own exceptions if it can't start the run or log to it.
    """
    opening = next(events)["open"]
    id_file = Path(opening["id_file"])
    try:
        run = _start_or_fall_back(opening, answer)
        _write(id_file, json.dumps({"id": run.id, "url": run.url}))
        answer(id=run.id, url=run.url)
        mirror = Mirror(run, opening["kept"])
        for event in events:
            match event:
                case {"row": row}:
                    mirror.log(row)
                case {"sample": sample}:
                    mirror.log_sample(sample)
                case {"console": text}:
                    run.write_logs(text)
                case {"alert": alert}:
                    run.alert(**alert)
                case {"model": model}:
                    _log_model(run, model, answer)
                case {"finish": {"summary": summary, "exit_code": exit_code}}:
                    run.summary.update(summary)
                    _finish(run, exit_code, answer)
                    return
        # The default action of SIGALRM ends this process even while W&B waits.
        signal.alarm(FINISH_SECONDS * PATIENCE + 2)
        _finish(run, 1, answer)
    except BaseException:
        # The W&B run lacks rows from here on: a resumed run must send all of them again.
        id_file.unlink(missing_ok=True)
        raise


class Mirror:
    """Writer of the record's lines to a W&B run that already has the first `kept` of them."""

    def __init__(self, run, kept: int) -> None:
        self._run = run
        self._kept = kept
        self._samples: list[list] = []
        self._best = float("inf")
        self._paused_until = 0.0
        # By default W&B's x-axis is its own row number, which counts samples too. With these a
        # panel's x-axis can be any of STEPS, because each row has all of them.
        for name in STEPS:
            run.define_metric(name, hidden=True)
        run.define_metric("train/*", step_metric="step")
        run.define_metric("val/*", step_metric="step")
        run.define_metric("norms/*", step_metric="step")  # A section of its own, by its prefix.

    def log(self, row: dict) -> None:
        """Logs a line of metrics, and the best validation loss so far to the summary."""
        # The record has null for a number that is not finite.
        self._add({key: float("nan") if value is None else value for key, value in row.items()})
        loss = row.get("val/loss")
        if loss is not None and loss < self._best:
            self._best = loss
            # A flat key, as in summary.json. define_metric's summary="min" would make val/loss a
            # group of columns until the run ends, and a number afterwards.
            self._run.summary["best/val/loss"] = loss

    def log_sample(self, sample: dict) -> None:
        """Logs the table of samples so far; only a row without it while the server is slow."""
        import wandb

        self._samples.append([sample["step"], sample["prompt"], sample["text"]])
        table = wandb.Table(["step", "prompt", "text"], self._samples[-TABLE_ROWS:])
        if time.monotonic() >= self._paused_until:
            try:
                self._add({"step": sample["step"], "samples": table})
                return
            except Exception:
                # A later table holds this sample too.
                self._paused_until = time.monotonic() + PAUSE_SECONDS
        # Always one row per line of the record: a resumed run counts them.
        self._add({"step": sample["step"]})

    def _add(self, row: dict) -> None:
        if self._kept > 0:
            self._kept -= 1
        else:
            self._run.log(row)


def _log_model(run, model: dict, answer: Callable[..., None]) -> None:
    """Logs the files of a model as an artifact and waits until it is uploaded; one note if not."""
    import wandb

    try:
        artifact = wandb.Artifact(model["name"], model["type"], metadata=model["metadata"])
        for name, path in model["files"].items():
            artifact.add_file(path, name, skip_cache=True)
        for name, content in model["contents"].items():
            with artifact.new_file(name) as file:
                json.dump(content, file)
        logged = run.log_artifact(artifact, aliases=model["aliases"])
        if run.offline:
            return
        logged.wait(timeout=model["seconds"])
        answer(note=f"W&B has the model: --workdir=wandb:{logged.qualified_name}")
    except Exception as error:
        # `wandb sync` would not send it: the client keeps models of offline runs alone on disk.
        answer(note=f"W&B did not take the model, the run folder has it: {_one_line(error)}")


def _start_or_fall_back(opening: dict, answer: Callable[..., None]):
    """Returns a started run: offline if W&B can't start online."""
    # In a sweep W&B reads these variables alone, and without them it would name the project after
    # this file's folder.
    for setting in ("project", "entity"):
        if opening[setting]:
            os.environ[f"WANDB_{setting.upper()}"] = opening[setting]
    import wandb

    _leave_out_refused(answer)
    try:
        return _start(opening)
    except Exception as error:
        if opening["mode"] != "online":
            raise
        wandb.teardown()
        run = _start({**opening, "mode": "offline"})
        answer(
            note=f"W&B did not start online: this run is logged offline; upload it later with "
            f"`wandb sync {shlex.quote(run.settings.sync_dir)}` ({_one_line(error)})"
        )
        return run


def _leave_out_refused(answer: Callable[..., None]) -> None:
    """Removes the variables of the environment with which W&B would not start; one note each."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        try:
            wandb.Settings().update_from_env_vars({name: os.environ[name]})
        except (ValueError, wandb.Error) as error:
            if name == "WANDB_BASE_URL":
                raise  # Nothing is sent to another server.
            del os.environ[name]
            # Pydantic, which W&B checks its settings with, has the reason apart from advice.
            details = getattr(error, "errors", None)
            reason = details()[0]["msg"] if details else str(error)
            answer(note=f"{name} is ignored, for W&B refuses its value: {reason}")


def _start(opening: dict):
    import wandb

    settings = wandb.Settings(
        init_timeout=INIT_SECONDS * PATIENCE,
        finish_timeout=FINISH_SECONDS * PATIENCE,
        finish_timeout_raises=True,
        silent=True,
        console="off",  # This process prints nothing: the training's lines come as events.
        # The run folder records what ran, from an allow-list; a git remote's URL may contain a
        # password.
        save_code=False,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        # GPU, memory and disk use of the training process, the first thing to read when a GPU is
        # slow: four samples a minute, at no measurable cost.
        x_stats_pid=TRAINING_PROCESS,
        # Seconds of rows lost if this process is killed; the default is 15.
        x_transaction_log_flush_interval=1,
        # W&B's default, for all queries but those that WANDB_HTTP_TIMEOUT limits.
        x_graphql_timeout_seconds=30,
        stop_fn=_stop_training,
    )
    arguments = {key: value for key, value in opening.items() if key not in NOT_OF_INIT}
    if opening["kept"]:
        # Drops the rows past the checkpoint and continues with the next number; `resume=`, or the
        # same id alone, does not.
        arguments["resume_from"] = f"{opening['id']}?_step={opening['kept'] - 1}"
    elif "WANDB_SWEEP_ID" not in os.environ:  # In a sweep W&B reads the id from the environment.
        arguments["id"] = opening["id"]
    return wandb.init(settings=settings, **arguments)


def _stop_training() -> None:
    """Sends SIGINT, as Ctrl-C does; W&B calls it when the stop button is pressed."""
    if os.getppid() == TRAINING_PROCESS:
        os.kill(TRAINING_PROCESS, signal.SIGINT)


def _finish(run, exit_code: int, answer: Callable[..., None]) -> None:
    import wandb

    try:
        run.finish(exit_code=exit_code)
    except TimeoutError:
        answer(
            note=f"W&B did not upload everything within {FINISH_SECONDS * PATIENCE} s: upload the "
            f"rest with `wandb sync --include-online {shlex.quote(run.settings.sync_dir)}`"
        )
    else:
        wandb.teardown()


def _write(path: Path, content: str) -> None:
    """Replaces a file at once, so that no reader sees a part of it."""
    # Not by runtime/files.py: this process can import none of our modules (python -P).
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(content)
    temporary.replace(path)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    main()
