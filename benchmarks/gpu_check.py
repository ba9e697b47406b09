"""Correctness and speed on one GPU: `python -m benchmarks.gpu_check --output=FILE`.

Made for a machine that is available for minutes and has no network. Each part (gpu_parts/) is a
process with a time limit (checklist.py). The file is rewritten after every part; those about
correctness run first, and a failure does not stop the others.

--rehearse runs all parts at the smallest sizes on any device. --compile-only adds rows of programs
compiled for an H100 without one, marked as not measured. docs/gpu.md has the instructions.
"""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from absl import flags

import run_folder
from benchmarks import checks, gpu_compiled, results
from benchmarks.checklist import Part, Row, line, run, table
from benchmarks.commands import ROOT
from runtime import errors

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
# Seconds of the total for starting, the file and the table.
MARGIN = 3.0
# JAX's share of the device's memory; `small` shares the device with PyTorch.
MEMORY, SHARED_MEMORY = "0.85", "0.4"

# Name, question, seconds of its own, and True if it must pass.
PARTS = [
    ("peak", "Is there a GPU, and how fast are its products and copies?", 10, True),
    ("stages", "Do the five stages train as on a CPU, in float32 and bfloat16?", 50, True),
    ("attention", "Is cuDNN's attention right, forward and backward?", 10, True),
    ("resume", "Does a resumed run end bit-equal?", 20, True),
    ("generation", "Does greedy text have the CPU's tokens?", 10, True),
    ("small", "Is GPT-2 small's update as fast as PyTorch's, at 35 % MFU?", 100, True),
    ("small-48", "How long do 48 windows take, whole and in chunks?", 30, False),
    ("baby", "Is nanoGPT's loss reached within a minute of training?", 60, True),
    ("texts", "How fast are 1 text and 64 texts generated?", 15, False),
    ("ladder", "How long do the stages of the ladder take?", 45, False),
]


def main() -> None:
    """Runs the parts, or the mode that a flag asks for."""
    flag = flags.FLAGS
    check_flags()
    output = Path(flag.output)
    if flag["write-expected"].value:
        os.environ["JAX_PLATFORMS"] = "cpu"
        # Imported here alone: JAX in this process would hold GPU memory that the parts need.
        from benchmarks.gpu_parts import stages

        stages.write_expected()
    elif flag["compile-only"].value:
        before = results.read(output) or {}
        report(output, before, gpu_compiled.rows())
    else:
        header = {"rehearsal": flag.rehearse, "machine": machine()}
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as cache:
            report(output, header, run(parts(cache), flag.seconds - MARGIN))


def check_flags() -> None:
    """Raises UserError for wrong flags, before any time on the GPU is spent."""
    flag = flags.FLAGS
    modes = [name for name in ("rehearse", "compile-only", "write-expected") if flag[name].value]
    if len(modes) > 1:
        names = " ".join(f"--{name}" for name in modes)
        raise errors.UserError(f"{names}: expected one of them at most")
    if flag.parts:
        checks.check_choices("parts", flag.parts, [name for name, *_ in PARTS])
    if not MARGIN < flag.seconds < float("inf"):
        raise errors.UserError(f"--seconds={flag.seconds}: expected more than {MARGIN}")
    if flag["write-expected"].value:
        return
    checks.check_output(flag.output)
    if flag["compile-only"].value:
        gpu_compiled.check()


def parts(cache: str) -> list[Part]:
    """Returns the parts to run; they share the compilation caches in the folder `cache`."""
    flag = flags.FLAGS
    environment = {
        "XDG_CACHE_HOME": cache,
        "WANDB_MODE": "disabled",
        # JAX would end a traceback with advice, and the last line is what a row keeps.
        "JAX_TRACEBACK_FILTERING": "off",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "TRITON_CACHE_DIR": f"{cache}/triton",
    }
    if flag.rehearse:  # At the smallest sizes compiling takes most of the time.
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    options = ["--rehearse"] if flag.rehearse else []
    return [
        Part(
            name,
            asks,
            seconds,
            [sys.executable, "-m", "benchmarks.gpu_parts", name, *options],
            environment
            | {"XLA_PYTHON_CLIENT_MEM_FRACTION": SHARED_MEMORY if name == "small" else MEMORY},
            must_pass or flag.rehearse,
        )
        for name, asks, seconds, must_pass in PARTS
        if not flag.parts or name in flag.parts
    ]


def report(output: Path, header: dict, rows: Iterable[Row]) -> None:
    """Prints each row and rewrites the file, which keeps its rows of the other kind: measured or
    compiled.

    Raises Failed if a part that must pass did not.
    """
    made: list[Row] = []
    before = (results.read(output) or {}).get("rows", [])
    for row in rows:
        made.append(row)
        kept = [one for one in before if one["measured"] != row["measured"]]
        run_folder.write_json(output, {**header, "rows": made + kept})
        print(line(row), flush=True)
    print(f"\n{output}:\n{table(made)}", flush=True)
    if failed := [row["name"] for row in made if row["passed"] is False]:
        raise errors.Failed(f"did not pass: {', '.join(failed)}; {output} says why")


def machine() -> dict:
    """Returns the host, its GPUs and their driver, the libraries' versions, and the commit."""
    query = "--query-gpu=name,driver_version,memory.total"
    return {
        **results.host(),
        "gpus": output_of("nvidia-smi", query, "--format=csv,noheader"),
        "versions": {"python": platform.python_version(), **results.versions(*LIBRARIES)},
        "git_commit": output_of("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "git_changes": output_of("git", "-C", str(ROOT), "status", "--porcelain"),
    }


def output_of(*words: str) -> str | None:
    """Returns a command's output; None if it is not installed or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def define_flags() -> None:
    """Defines the flags; a call, because other benchmarks define some of the same names."""
    flags.DEFINE_string("output", "", "The .json file to write.")
    flags.DEFINE_bool("rehearse", False, "Use the smallest sizes, on any device.")
    flags.DEFINE_bool("compile-only", False, "Only compile, for an H100 that is absent.")
    flags.DEFINE_bool(
        "write-expected", False, "Only write this CPU's losses to benchmarks/gpu_expected.json."
    )
    flags.DEFINE_list("parts", [], "Parts to run; all of them by default.")
    flags.DEFINE_float("seconds", 400.0, "Time limit of all parts together, in seconds.")


if __name__ == "__main__":
    define_flags()
    errors.run_command(main)
