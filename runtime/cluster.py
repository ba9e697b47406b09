"""Several processes that train one run, on one host or on many, by JAX's own distributed runtime.

Each process has its own devices, and all of them run the same program on the devices of all.
Process 0 alone writes to the run folder, to W&B and to the terminal. If one process dies or stops
answering, the others end: a resumed run may have fewer of them, or more.
"""

import contextlib
import itertools
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

from runtime import lifelines, process
from runtime.errors import FAILED, USER_ERROR, Diverged, Failed, UserError, code_of
from runtime.terminal import escape_controls

Result = TypeVar("Result")

# All three, or none where SLURM or Open MPI tell them.
COORDINATOR, NUM_PROCESSES, PROCESS_ID = "--coordinator", "--num_processes", "--process_id"
# Variables of a launcher by which JAX finds the processes; the first is their number.
LAUNCHERS = (
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
# Seconds between two signs of life, and until a process without one counts as dead. A process gives
# them while it compiles or waits, too.
EVERY, PATIENCE = 5, 45
HEARTBEAT = 50  # Seconds until JAX itself gives up a process 0 that does not answer.
# Seconds that the end of process 0 may take after that of the others.
LEAVING = 900
# Seconds that a process may take to write its part of a checkpoint after the others.
WRITING = 600
# XLA's option by which CPUs of different processes send and receive in one order. With the other
# scheduler each has an order of its own, and a run of two devices a process hangs or aborts.
ONE_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def join(coordinator: str, num_processes: int, process_id: int, seconds: int) -> None:
    """Joins the other processes of the run; does nothing for a process that is alone.

    Without the arguments ("" and -1), as SLURM or Open MPI started this process. Ends the process
    if the others have not joined within `seconds`. Raises UserError for wrong arguments.
    """
    flags = {COORDINATOR: coordinator, NUM_PROCESSES: num_processes, PROCESS_ID: process_id}
    given = " ".join(f"{name}={value}" for name, value in flags.items() if value not in ("", -1))
    if given and num_processes != 1:
        check(coordinator, num_processes, process_id, given)
    if num_processes == 1 or not (given or is_launched()):
        return
    process.quiet_compiler()
    take_terminal()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_ORDER}".strip()
    import jax

    # Stopping is agreed on in the training step: training/agreement.py.
    jax.config.update("jax_enable_preemption_service", False)
    # Else a dead process ends the others by a stack trace. `watch` ends them in one line.
    jax.config.update("jax_enable_recoverability", True)
    late = threading.Timer(
        seconds,
        end,
        [
            f"{given or 'started by SLURM or Open MPI'}: the other processes have not joined "
            f"within {seconds} s: start all of them, with one {COORDINATOR} that all of them can "
            "reach, or raise --join_seconds",
            USER_ERROR,
        ],
    )
    late.start()
    named: dict[str, Any] = {}
    if given:
        named = dict(coordinator_address=coordinator, num_processes=num_processes)
        named["process_id"] = process_id
    try:
        jax.distributed.initialize(
            **named, initialization_timeout=seconds + 60, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{given}: the processes can't be joined ({error})") from None
    finally:
        late.cancel()
    threading.Thread(target=_watch, daemon=True).start()


def check(coordinator: str, num_processes: int, process_id: int, given: str) -> None:
    """Raises UserError unless the flags name a coordinator and a process of several."""
    if not coordinator or -1 in (num_processes, process_id):
        names = f"{COORDINATOR}, {NUM_PROCESSES} and {PROCESS_ID}"
        raise UserError(f"{given}: expected all of {names}, or none of them")
    if not re.fullmatch(r"[^\s:]+:\d{1,5}", coordinator):
        raise UserError(f"{COORDINATOR}={coordinator}: expected HOST:PORT of process 0")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise UserError(
            f"{NUM_PROCESSES}={num_processes} {PROCESS_ID}={process_id}: expected a number of "
            f"processes of at least 1, and a process from 0 to one less than that"
        )


def take_terminal() -> None:
    """Keeps standard output and error for Python, as native libraries write to them, too.

    Lines of JAX's communication between CPUs are not shown, unless NCCL_DEBUG asks for such lines;
    native_log.py passes on the lines of errors.
    """
    if "NCCL_DEBUG" not in os.environ:
        sys.stdout = _take(1, os.open(os.devnull, os.O_WRONLY))
    command = [sys.executable, "-P", str(Path(__file__).with_name("native_log.py"))]
    native = subprocess.Popen(
        [*command, f"error: {lost('JAX')}"], stdin=subprocess.PIPE, stdout=os.dup(2)
    )
    assert native.stdin
    sys.stderr = _take(2, native.stdin.fileno())


def _take(number: int, instead: int) -> TextIO:
    """Returns the stream of a file descriptor, and puts another one in its place."""
    own = os.fdopen(os.dup(number), "w", buffering=1, errors="backslashreplace")
    os.dup2(instead, number)
    return own


def is_launched() -> bool:
    """Returns True if SLURM or Open MPI has started several processes, of which this is one."""
    return any(
        all(name in os.environ for name in names)
        and os.environ[names[0]].isdecimal()
        and int(os.environ[names[0]]) > 1
        for names in LAUNCHERS
    )


def count() -> int:
    """Returns the number of processes."""
    import jax

    return jax.process_count()


def index() -> int:
    """Returns the number of this process."""
    import jax

    return jax.process_index()


def is_first() -> bool:
    """Returns True for process 0, which writes; a process that is alone is process 0."""
    return index() == 0


def everywhere(action: Callable[[], Result]) -> Result:
    """Returns what `action` does in this process, when it has succeeded in all of them.

    A UserError in one process ends all of them, with the line of the first process that has one.
    """
    if count() == 1:
        return action()
    return _agreed(action)


def first(action: Callable[[], Result]) -> Result | None:
    """Runs `action` in process 0 alone, and returns when it has succeeded; else as `everywhere`."""
    if count() == 1:
        return action()
    return _agreed(action if is_first() else lambda: None)


def _agreed(action: Callable[[], Result]) -> Result:
    error = None
    try:
        result = action()
    except UserError as refusal:
        error = refusal
    refusing = [number for number, text in enumerate(exchange(str(error or ""))) if text]
    if not refusing:
        return result
    if error and refusing[0] == index():
        raise error
    sys.exit(USER_ERROR)


def exchange(text: str) -> list[str]:
    """Returns the `text` of each process, up to 2,000 bytes of it; all of them have to call this.

    It is a computation of the devices: the main thread's, in the same place of its order.
    """
    if count() == 1:
        return [text]
    import numpy as np
    from jax.experimental import multihost_utils

    padded = np.frombuffer(text.encode()[:2000].ljust(2000, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]


@contextlib.contextmanager
def meeting(key: str) -> Iterator[None]:
    """At its end waits until all processes have come to the end of theirs, however each ends.

    Any thread may meet; each time in a process, a `key` is another one. Raises OSError if they have
    not all come within WRITING seconds.
    """
    try:
        yield
    finally:
        if count() > 1:
            from orbax.checkpoint import multihost

            _met[key] += 1
            try:
                multihost.get_barrier_sync_fn()(key=f"{key} {_met[key]}", timeout_ms=1000 * WRITING)
            except Exception as error:  # JAX's, of several classes.
                raise OSError(f"not all processes have written within {WRITING} s") from error


_met: Counter[str] = Counter()


def end_as_one(action: Callable[[], None], coordinator: str = "") -> None:
    """Runs `action`, and leaves the other processes when all of them have ended alike.

    Where they end with an error, process 0 alone says so. A process that fails alone ends at once,
    which ends the others: `coordinator`, if a flag names it, is where they find process 0.
    """
    if count() == 1:
        action()
        return
    lifelines.connect(coordinator.partition(":")[0], is_first(), exchange, _lose)
    try:
        action()
        leave(LEAVING)
    except (SystemExit, UserError):
        leave(PATIENCE)
        raise
    except (KeyboardInterrupt, Diverged) as ending:
        leave(LEAVING)
        if is_first():
            raise
        sys.exit(code_of(ending))
    except Failed as error:
        end(str(error), FAILED)
    except BaseException:  # A mistake in the code.
        traceback.print_exc()
        os._exit(FAILED)


def leave(seconds: int) -> None:
    """Waits so long until all processes have ended their run, and leaves them, process 0 last."""
    import jax
    from orbax.checkpoint import multihost

    end_watch()
    try:
        # Process 0 still writes the summary, and what W&B gets.
        multihost.get_barrier_sync_fn()(key="end", timeout_ms=1000 * seconds)
    except Exception as error:
        end_lost(error)
    if is_first():
        time.sleep(1)  # The others take their leave of its service.
    jax.distributed.shutdown()


def _watch() -> None:
    """Gives signs of life, and ends this process when another one gives none."""
    from orbax.checkpoint import multihost

    barrier = multihost.get_barrier_sync_fn()
    for number in itertools.count():
        try:
            barrier(key=f"alive {number}", timeout_ms=1000 * PATIENCE)
        except Exception as error:  # JAX's, of several classes.
            if not _is_over.is_set():
                end_lost(error)
        if _is_over.wait(EVERY):
            return


def _lose() -> None:
    if not _is_over.is_set():
        end(lost("its connection is closed"), FAILED)


_is_over = threading.Event()


def end_watch() -> None:
    """Ends the signs of life: the processes may end now, each when it is done."""
    _is_over.set()


def end_if_lost(error: Exception) -> None:
    """Ends this process if `error` is that of a computation in which another one has died."""
    if count() > 1 and re.search(r"[Gg]loo|NCCL|[Cc]oordination|[Cc]onnection", str(error)):
        end_lost(error)


def end_lost(error: Exception) -> NoReturn:
    """Ends this process, because another one has ended or does not answer."""
    reason = re.search(r"[Gg]loo|NCCL|timed out", str(error))
    end(lost(reason[0] if reason else "JAX"), FAILED)


def lost(found_by: str) -> str:
    """Returns the line of a process that has lost another one."""
    return (
        f"another process of this run has ended, or does not answer ({found_by}); what is saved is "
        "kept: start all processes again, however many there are now, with "
        "--config.checkpoint.resume=true"
    )


_ending = threading.Lock()


def end(message: str, code: int) -> NoReturn:
    """Ends this process at once, after one line: JAX would wait for the others."""
    with _ending:  # For ever: the line is printed once.
        # To native_log.py, if that is in between: it then knows that there is a line.
        os.write(2, f"error: {escape_controls(' '.join(message.split()))}\n".encode())
        os._exit(code)
