"""The process that W&B runs in: reads events from standard input, one JSON object a line.

    {"open": {...}}      first: the arguments of wandb.init, `id`, and `kept`, the rows that stay
    {"row": {...}}       a line of metrics.jsonl
    {"sample": {...}}    a line of samples.jsonl
    {"finish": {...}}    last: `summary` and `exit_code`

It answers on standard output: {"id": ...} of the run it started, {"note": ...} for the person,
{"lost": ...} when it gives up. wandb_run.py starts it. If the training process dies, its end of
the pipe closes, and the run is finished as failed with every row that was sent.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

# How long W&B may take to start and, at the end, to upload what is left.
INIT_SECONDS = 10
FINISH_SECONDS = 10
# Each sample is logged with the ones before it. Bounded, because the files would otherwise grow
# with the square of their number; samples.jsonl has all of them.
TABLE_ROWS = 100
# Online, the client asks the server about every table before it logs it, and gives up after this.
# Then tables are left out for a while, lest the rows that come after them queue up.
ASK_SECONDS = 3
PAUSE_SECONDS = 60
STEPS = ("step", "tokens_seen", "train_flops", "seconds")
TRAINING_PROCESS = os.getppid()


def main() -> None:
    # Training comes first: on a full machine this process takes what is left.
    os.nice(10)
    answers = os.fdopen(os.dup(1), "w")
    # Whatever W&B prints is not to mix with the answers.
    os.dup2(2, 1)
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(ASK_SECONDS))

    def answer(**message: str) -> None:
        # If nobody listens any more, what was sent so far is still to be kept.
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    with tempfile.TemporaryDirectory(prefix="wandb-") as scratch:
        tempfile.tempdir = scratch
        try:
            mirror_events(map(json.loads, sys.stdin.buffer), answer)
        # SystemExit too, which W&B raises when its service process ends badly.
        except BaseException as error:
            answer(lost=_one_line(error))
    # Past W&B's exit hooks, which wait for its service without a limit.
    os._exit(0)


def mirror_events(events: Iterator[dict], answer: Callable[..., None]) -> None:
    """Starts the W&B run that the first event describes, repeats the others in it, finishes it.

    Raises whatever W&B raises if it can neither start the run nor log to it.
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
    # The default action of SIGALRM ends this process, whatever W&B waits for.
    signal.alarm(FINISH_SECONDS + 2)
    _finish(run, 1, answer)


class Mirror:
    """Writes the lines of the record to a W&B run that has the first `kept` of them already."""

    def __init__(self, run, kept: int) -> None:
        self._run = run
        self._kept = kept
        self._samples: list[list] = []
        self._best = float("inf")
        self._paused_until = 0.0
        # Without these W&B draws everything against its own row number, which counts samples too.
        # A panel's x-axis can then be switched to any of STEPS, because each row has them all.
        for name in STEPS:
            run.define_metric(name, hidden=True)
        run.define_metric("train/*", step_metric="step")
        run.define_metric("val/*", step_metric="step")

    def log(self, row: dict) -> None:
        # The record has null for what is not a finite number.
        self._add({key: float("nan") if value is None else value for key, value in row.items()})
        loss = row.get("val/loss")
        if loss is not None and loss < self._best:
            self._best = loss
            # Flat, as in summary.json. define_metric's summary="min" would make val/loss itself a
            # group of columns until the run ends, and then a number.
            self._run.summary["best/val/loss"] = loss

    def log_sample(self, sample: dict) -> None:
        import wandb

        self._samples.append([sample["step"], sample["prompt"], sample["text"]])
        table = wandb.Table(["step", "prompt", "text"], self._samples[-TABLE_ROWS:])
        if time.monotonic() >= self._paused_until:
            try:
                self._add({"step": sample["step"], "samples": table})
                return
            except Exception:
                # The next table will hold this sample too, if the server is back by then.
                self._paused_until = time.monotonic() + PAUSE_SECONDS
        # One row for each line of the record, always: rows are counted when a run is resumed.
        self._add({"step": sample["step"]})

    def _add(self, row: dict) -> None:
        if self._kept > 0:
            self._kept -= 1
        else:
            self._run.log(row)


def _start_or_fall_back(opening: dict, answer: Callable[..., None]):
    import wandb

    try:
        return _start(opening)
    except Exception as error:
        if opening["mode"] != "online":
            raise
        wandb.teardown()
        run = _start({**opening, "mode": "offline"})
        answer(
            note=f"W&B could not start online, so this run is logged offline; upload it later "
            f"with: wandb sync {run.settings.sync_dir} ({_one_line(error)})"
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
        # The run folder says what ran, from an allow-list; a remote's address may hold a password.
        save_code=False,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        # The use of GPU, memory and disk by the training process is kept: four samples a minute,
        # whose cost can't be measured, and the first thing to look at when a GPU seems slow.
        x_stats_pid=TRAINING_PROCESS,
        # What a kill of this process may cost; the default is 15 s.
        x_transaction_log_flush_interval=1,
        # For everything but the questions that WANDB_HTTP_TIMEOUT is set for: W&B's default.
        x_graphql_timeout_seconds=30,
        stop_fn=_stop_training,
    )
    arguments = {key: value for key, value in opening.items() if key not in ("id", "kept")}
    if opening["kept"]:
        # Drops the rows past the checkpoint and goes on with the next number, which `resume=` or
        # the same id alone do not.
        arguments["resume_from"] = f"{opening['id']}?_step={opening['kept'] - 1}"
    elif "WANDB_SWEEP_ID" not in os.environ:  # There W&B takes the id from its own environment.
        arguments["id"] = opening["id"]
    return wandb.init(settings=settings, **arguments)


def _stop_training() -> None:
    """The stop button of the W&B page does what Ctrl-C does."""
    if os.getppid() == TRAINING_PROCESS:
        os.kill(TRAINING_PROCESS, signal.SIGINT)


def _finish(run, exit_code: int, answer: Callable[..., None]) -> None:
    import wandb

    try:
        run.finish(exit_code=exit_code)
    except TimeoutError:
        answer(
            note=f"W&B did not take everything within {FINISH_SECONDS} s; upload the rest with: "
            f"wandb sync {run.settings.sync_dir}"
        )
    else:
        wandb.teardown()


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    main()
