"""Checks and measures the product on one GPU: `python -m benchmarks.gpu_check --output=FILE`.

Made for a machine that is there for minutes and has no network. Each part (benchmarks/gpu_parts)
is a process of its own with a time limit (checklist.py). The file is rewritten after every part;
those about correctness come first, and one that fails does not stop the others.

--rehearse runs all parts at the smallest sizes on any device. --compile-only adds rows of what is
compiled for an H100 where none is, marked as not measured. docs/gpu.md says how to carry it.
"""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from absl import flags

from benchmarks import gpu_compiled, results
from benchmarks.checklist import Part, Row, line, run, table
from benchmarks.rounds import ROOT
from runtime import errors

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
# Of all seconds: for the start, the file and the table.
MARGIN = 3.0
# Of the device, JAX's; what is small shares it with PyTorch.
MEMORY, SHARED_MEMORY = "0.85", "0.4"

# Name, question, seconds of its own, and whether it must pass.
PARTS = [
    ("peak", "Is there a GPU, and how fast are its products and copies?", 10, True),
    ("stages", "Do the five stages train as on a CPU, in float32 and bfloat16?", 50, True),
    ("attention", "Is cuDNN's attention right, forward and backward?", 10, True),
    ("resume", "Does a resumed run end bit-equal?", 20, True),
    ("generation", "Does greedy text have the CPU's tokens?", 10, True),
    ("small", "Is GPT-2 small's update as fast as PyTorch's, at 35 % MFU?", 100, True),
    ("small-48", "What do 48 windows take, whole and in chunks?", 30, False),
    ("baby", "Is nanoGPT's loss reached within a minute of training?", 60, True),
    ("texts", "How fast are 1 text and 64 texts written?", 15, False),
    ("ladder", "What do the stages of the ladder take?", 45, False),
]


def main() -> None:
    flag = flags.FLAGS
    check_flags()
    output = Path(flag.output)
    if flag["write-expected"].value:
        # In this process, which else leaves JAX alone: on a GPU it would take the parts' memory.
        os.environ["JAX_PLATFORMS"] = "cpu"
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
    """Raises UserError for wrong flags: before the minutes that there are."""
    flag = flags.FLAGS
    modes = [name for name in ("rehearse", "compile-only", "write-expected") if flag[name].value]
    if len(modes) > 1:
        names = " ".join(f"--{name}" for name in modes)
        raise errors.UserError(f"{names}: expected one of them at most")
    known = [name for name, *_ in PARTS]
    if unknown := [name for name in flag.parts if name not in known]:
        raise errors.UserError(f"--parts={','.join(unknown)}: expected some of {','.join(known)}")
    if not MARGIN < flag.seconds < float("inf"):
        raise errors.UserError(f"--seconds={flag.seconds}: expected more than {MARGIN}")
    output = Path(flag.output)
    if flag["write-expected"].value:
        return
    if output.suffix != ".json" or output.is_dir() or not os.access(output.parent, os.W_OK):
        raise errors.UserError(
            f"--output={flag.output}: expected a .json file in a folder that can be written"
        )
    if flag["compile-only"].value:
        gpu_compiled.check()


def parts(cache: str) -> list[Part]:
    """Returns the parts that the flags ask for, which share what they compile."""
    flag = flags.FLAGS
    environment = {"XDG_CACHE_HOME": cache, "WANDB_MODE": "disabled"}
    environment["JAX_TRACEBACK_FILTERING"] = "off"  # It ends tracebacks with advice.
    environment["TORCHINDUCTOR_CACHE_DIR"] = f"{cache}/inductor"
    environment["TRITON_CACHE_DIR"] = f"{cache}/triton"
    if flag.rehearse:  # What is small is soon done, but not soon compiled.
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
    """Writes the file after every row, with those of the other kind that it held before.

    Raises Failed if a part that must pass did not.
    """
    made: list[Row] = []
    before = (results.read(output) or {}).get("rows", [])
    for row in rows:
        made.append(row)
        kept = [one for one in before if one["measured"] != row["measured"]]
        results.write(output, {**header, "rows": made + kept})
        print(line(row), flush=True)
    print(f"\n{output}:\n{table(made)}", flush=True)
    if failed := [row["name"] for row in made if row["passed"] is False]:
        raise errors.Failed(f"did not pass: {', '.join(failed)}; {output} says why")


def machine() -> dict:
    """Returns what the figures depend on: the device, its driver, versions, the commit."""
    versions = {name: version(name) for name in LIBRARIES}
    query = "--query-gpu=name,driver_version,memory.total"
    return {
        **results.facts(),
        "gpus": output_of("nvidia-smi", query, "--format=csv,noheader"),
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": output_of("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "git_changes": output_of("git", "-C", str(ROOT), "status", "--porcelain"),
    }


def version(library: str) -> str | None:
    """Returns the version of a library; None if it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def output_of(*words: str) -> str | None:
    """Returns what a command prints; None if it is not there, or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def define_flags() -> None:
    """Defines the flags; not when imported, for other benchmarks have some of the same names."""
    flags.DEFINE_string("output", "", "The .json file to write.")
    flags.DEFINE_bool("rehearse", False, "The smallest sizes, on any device.")
    flags.DEFINE_bool("compile-only", False, "Only compile, for an H100 that is absent.")
    flags.DEFINE_bool(
        "write-expected", False, "Only write this CPU's losses to benchmarks/gpu_expected.json."
    )
    flags.DEFINE_list("parts", [], "Which parts; all of them by default.")
    flags.DEFINE_float("seconds", 400.0, "How long all parts together may take.")


if __name__ == "__main__":
    define_flags()
    errors.run_command(main)
