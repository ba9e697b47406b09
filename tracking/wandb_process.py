"""The W&B process, started by wandb_run.py: reads events from standard input, one JSON per line.

    {"open": {...}}      first: the arguments of wandb.init, `id`, and `kept`, the rows to keep
    {"row": {...}}       a line of metrics.jsonl
    {"sample": {...}}    a line of samples.jsonl
    {"finish": {...}}    last: `summary` and `exit_code`

It answers on standard output: {"id": ...} of the run it started, {"note": ...} for the user,
{"lost": ...} when it fails. If the training process dies, the pipe closes, and this process
finishes the W&B run as failed, with every row that it was sent.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

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
STEPS = ("step", "tokens_seen", "train_flops", "seconds")
TRAINING_PROCESS = os.getppid()


def main() -> None:
    os.nice(10)  # On a busy machine the training has priority.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # W&B's prints must not mix with the answers.
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(QUERY_SECONDS))

    def answer(**message: str) -> None:
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
    run = _start_or_fall_back(opening, answer)
    answer(id=run.id)
    mirror = Mirror(run, opening["kept"])
    for event in events:
        match event:
            case {"row": row}:
                mirror.log(row)
            case {"sample": sample}:
                mirror.log_sample(sample)
            case {"finish": {"summary": summary, "exit_code": exit_code}}:
                run.summary.update(summary)
                _finish(run, exit_code, answer)
                return
    # The default action of SIGALRM ends this process even while W&B waits.
    signal.alarm(FINISH_SECONDS + 2)
    _finish(run, 1, answer)


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


def _start_or_fall_back(opening: dict, answer: Callable[..., None]):
    """Returns a started run: offline if W&B can't start online."""
    import wandb

    try:
        return _start(opening)
    except Exception as error:
        if opening["mode"] != "online":
            raise
        wandb.teardown()
        run = _start({**opening, "mode": "offline"})
        answer(
            note=f"W&B did not start online: this run is logged offline; upload it later with "
            f"`wandb sync {run.settings.sync_dir}` ({_one_line(error)})"
        )
        return run


def _start(opening: dict):
    import wandb

    settings = wandb.Settings(
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        silent=True,
        console="off",
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
    arguments = {key: value for key, value in opening.items() if key not in ("id", "kept")}
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
            note=f"W&B did not upload everything within {FINISH_SECONDS} s: upload the rest with "
            f"`wandb sync {run.settings.sync_dir}`"
        )
    else:
        wandb.teardown()


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    main()
