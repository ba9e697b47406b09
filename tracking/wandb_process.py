"""The process that W&B runs in: reads events from standard input, one JSON object a line.

    {"open": {...}}      first: the arguments of wandb.init, `id`, and `kept`, the rows that stay
    {"row": {...}}       a line of metrics.jsonl
    {"sample": {...}}    a line of samples.jsonl
    {"finish": {...}}    last: `summary` and `exit_code`

It answers on standard output: {"id": ...} of the run it started, {"note": ...} for the person,
{"lost": ...} when it gives up. wandb_run.py starts it. If the training process dies, its end of
the pipe closes, and the run is finished as failed with every row that was sent.
"""

import json
import os
import signal
import sys
from collections.abc import Callable

# How long W&B may take to start and, at the end, to upload what is left.
INIT_SECONDS = 10
FINISH_SECONDS = 10
# Each sample is logged with the ones before it. Bounded, because the files would otherwise grow
# with the square of their number; samples.jsonl has all of them.
TABLE_ROWS = 100
STEPS = ("step", "tokens_seen", "train_flops", "seconds")


def main() -> None:
    # Training comes first: on a full machine this process takes what is left.
    os.nice(10)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Whatever W&B prints is not to mix with the answers.
    os.dup2(2, 1)

    def answer(**message: str) -> None:
        answers.write(json.dumps(message) + "\n")

    try:
        events = map(json.loads, sys.stdin.buffer)
        mirror = Mirror(next(events)["open"], answer)
        for event in events:
            mirror.handle(event)
        mirror.parent_died()
    except BrokenPipeError:
        pass  # Nobody is left to answer to.
    except Exception as error:
        answer(lost=_one_line(error))
        # Not through W&B's exit hooks: they wait for its service, which may be what failed.
        os._exit(0)


class Mirror:
    """A W&B run that repeats the record row by row."""

    def __init__(self, opening: dict, answer: Callable[..., None]) -> None:
        self._answer = answer
        self._skip = opening["kept"]
        self._samples: list[list] = []
        self._best = float("inf")
        self._run = _start_or_fall_back(opening, answer)
        answer(id=self._run.id)
        # Without these W&B draws everything against its own row number, which counts samples too.
        # A panel's x-axis can then be switched to any of STEPS, because each row has them all.
        for name in STEPS:
            self._run.define_metric(name, hidden=True)
        self._run.define_metric("train/*", step_metric="step")
        self._run.define_metric("val/*", step_metric="step")

    def handle(self, event: dict) -> None:
        match event:
            case {"row": row}:
                self._log(row)
                loss = row.get("val/loss")
                if loss is not None and loss < self._best:
                    self._best = loss
                    self._run.summary["best/val/loss"] = loss
            case {"sample": sample}:
                self._samples.append([sample["step"], sample["prompt"], sample["text"]])
                self._log({"step": sample["step"], "samples": None})
            case {"finish": {"summary": summary, "exit_code": exit_code}}:
                self._run.summary.update(summary)
                self._finish(exit_code)
                sys.exit()

    def parent_died(self) -> None:
        # The default action of SIGALRM ends the process, whatever W&B waits for.
        signal.alarm(INIT_SECONDS + FINISH_SECONDS)
        self._finish(exit_code=1)

    def _log(self, row: dict) -> None:
        import wandb

        if self._skip > 0:  # The run that this one goes on in has the row already.
            self._skip -= 1
            return
        if "samples" in row:
            columns = ["step", "prompt", "text"]
            row["samples"] = wandb.Table(columns=columns, data=self._samples[-TABLE_ROWS:])
        # The record has null for what is not a finite number.
        self._run.log({key: float("nan") if value is None else value for key, value in row.items()})

    def _finish(self, exit_code: int) -> None:
        try:
            self._run.finish(exit_code=exit_code)
        except TimeoutError:
            self._answer(
                note=f"W&B did not take everything within {FINISH_SECONDS} s; upload the rest "
                f"with: wandb sync {self._run.settings.sync_dir}"
            )
            # W&B's exit hooks would now wait for the upload without a limit.
            os._exit(0)


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
            note=f"W&B is not reachable, so this run is logged offline ({_one_line(error)}); "
            f"upload it later with: wandb sync {run.settings.sync_dir}"
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
        x_disable_machine_info=True,
        x_save_requirements=False,
        # What a kill of the whole machine may cost; the default is 15 s.
        x_transaction_log_flush_interval=1,
    )
    arguments = {key: value for key, value in opening.items() if key not in ("id", "kept")}
    if opening["kept"]:
        arguments["resume_from"] = f"{opening['id']}?_step={opening['kept'] - 1}"
    elif "WANDB_SWEEP_ID" not in os.environ:  # There W&B takes the id from its own environment.
        arguments["id"] = opening["id"]
    return wandb.init(settings=settings, **arguments)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    main()
