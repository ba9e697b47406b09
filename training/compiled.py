"""Memory, kernels, products and communication of a compiled training step, by its text.

All figures are those of one device and one update.
"""

import math
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import jax
import numpy as np

from training import plan, topology
from training.setup import Setup


class Collective(NamedTuple):
    """One communication of a program."""

    kind: str  # "all-gather", ...
    result_bytes: int
    groups: np.ndarray  # Devices [groups, size] that communicate with each other.

    @property
    def sent_bytes(self) -> float:
        """The least bytes that a device sends, as on a ring of its group."""
        size = self.groups.shape[1]
        share = (size - 1) / size
        # Of a reduction's result each device has a part, whose sum the others have sent.
        times = {"all-reduce": 2 * share, "reduce-scatter": size - 1, "collective-permute": 1}
        return self.result_bytes * times.get(self.kind, share)


class Step(NamedTuple):
    """Compiled training step."""

    text: str
    num_devices: int
    peak_bytes: int  # Of memory.
    compile_seconds: float

    def collectives(self) -> list[Collective]:
        """Returns every communication of an update, as often as it takes place."""
        return [
            found
            for lines, times in _executed(self.text)
            for line in lines
            for found in [_collective(line, self.num_devices)] * times
            if found
        ]

    def accessed_bytes(self) -> int:
        """Returns the bytes that its instructions read and write, each as if nothing were cached.

        A lookup in a table counts all of the table.
        """
        return sum(times * accessed(lines) for lines, times in _executed(self.text))


def compile_step(setup: Setup) -> Step:
    """Compiles the training step of `setup` for its devices, which may be those of topology.py."""
    started = time.perf_counter()
    is_here = setup.mesh.devices.flat[0] in jax.devices()
    with nullcontext() if is_here else topology.compiling():
        shapes = plan.step_shapes(setup)
        lowered = setup.lower_train_steps(shapes)
        program = lowered.compile(setup.compiler_options(shapes))
    memory, text = program.memory_analysis(), program.as_text()
    assert memory and text  # Every backend of ours has them.
    peak_bytes = memory.peak_memory_in_bytes
    if setup.mesh.devices.flat[0].platform == "cpu":  # Its plan leaves out temporary buffers.
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
        peak_bytes = kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes
        if setup.pair(shapes):
            peak_bytes *= 2  # Both halves are in the memory of one CPU.
    seconds = time.perf_counter() - started
    return Step(text, setup.mesh.size, peak_bytes, seconds)


# A communication in XLA's text: its results, kind and options; "-start" begins one that runs beside
# other work.
COLLECTIVE = re.compile(
    r"= (\(?[^=]*?\)?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\((.*)"
)
ARRAY = re.compile(r"\b(\w+)\[([0-9,]*)\]")
# Bytes of a number.
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "f16": 2, "s8": 1}
BYTES |= {"u64": 8, "s64": 8, "f64": 8, "s16": 2, "u16": 2, "f8e4m3fn": 1, "f8e5m2": 1}


def _bytes(array: tuple[str, str]) -> int:
    dtype, shape = array
    return BYTES.get(dtype, 0) * math.prod(map(int, filter(None, shape.split(","))))


def _collective(line: str, num_devices: int) -> Collective | None:
    """Returns the communication of a line; None if it is another instruction."""
    if not (found := COLLECTIVE.search(line)):
        return None
    results, kind, begins, rest = found.groups()
    sizes = [_bytes(array) for array in ARRAY.findall(results)]
    # One that begins returns its operands, too, and first.
    result_bytes = sum(sizes[len(sizes) // 2 :] if begins else sizes)
    return Collective(kind, result_bytes, groups(rest, num_devices))


def groups(options: str, num_devices: int) -> np.ndarray:
    """Returns the devices [groups, size] that a communication's `replica_groups` name."""
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", options):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        within = re.findall(r"'(\w+)'", named[2])
        places = [*(set(axes) - set(within)), *within]
        grid = np.arange(math.prod(axes.values())).reshape(list(axes.values()))
        order = [list(axes).index(name) for name in places]
        return grid.transpose(order).reshape(-1, math.prod(axes[name] for name in within))
    if listed := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", options):
        shape, dims, order = (
            [int(size) for size in (part or "").split(",") if size] for part in listed.groups()
        )
        grid = np.arange(math.prod(dims)).reshape(dims)
        return grid.transpose(order or range(len(dims))).reshape(shape)
    if named := re.search(r"replica_groups=\{(\{[\d,{}]+\})\}", options):
        return np.array([[int(x) for x in one.split(",")] for one in named[1][1:-1].split("},{")])
    return np.arange(num_devices)[None]


# A matrix product in XLA's text: alone or in a fusion for Triton, or as a call of cuBLAS.
PRODUCT = re.compile(r' dot\(([^)]*)\)| custom-call\(([^)]*)\), custom_call_target="__cublas')


def factor_types(text: str) -> Iterator[str]:
    """Yields the factors' types of each matrix product in a compiled program.

    "bf16" for two of the same type, "bf16 f32" for different ones.
    """
    types: dict[str, str] = {}
    for line in text.splitlines():
        if line.endswith("{"):
            types = {}  # Names are local to a computation.
        if defined := re.match(r"\s*(?:ROOT )?%(\S+) = \(?(\w+)\[", line):
            types[defined[1]] = defined[2]
        if product := PRODUCT.search(line):
            factors = re.findall(r"%([^\s,)]+)", product[1] or product[2])[:2]
            yield " ".join(dict.fromkeys(types[factor] for factor in factors))


INSTRUCTION = re.compile(r"\s*(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)")
# Instructions that move nothing, or whose computations are counted themselves.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
FREE |= {"call", "after-all", "partition-id", "opt-barrier"}


def _executed(text: str) -> Iterator[tuple[list[str], int]]:
    """Yields the lines of the computations that a program runs, and how often it does.

    Those are its own and those of loops and branches; the insides of fusions stay in registers.
    A loop whose length only the run decides, as that over the updates of a dispatch, counts once.
    """
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    # Long tuples hold comments such as /*index=5*/.
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line):
            lines = computations.setdefault("ENTRY" if line.startswith("ENTRY") else head[1], [])
        else:
            lines.append(line)
    waiting = [("ENTRY", 1)]
    while waiting:
        name, times = waiting.pop()
        yield computations[name], times
        for line in computations[name]:
            instruction = INSTRUCTION.match(line)
            if instruction and instruction[3] in ("while", "conditional", "call"):
                length = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                named = re.findall(r"%([^\s,(){}]+)", instruction[4].partition(")")[2])
                repeated = times * int(length[1]) if length else times
                waiting += [(one, repeated) for one in named if one in computations]


def accessed(lines: list[str]) -> int:
    """Returns the bytes that the instructions of one computation read and write."""
    sizes: dict[str, int] = {}
    total = 0
    for line in lines:
        if not (instruction := INSTRUCTION.match(line)):
            continue
        name, results, kind, rest = instruction.groups()
        sizes[name] = sum(map(_bytes, ARRAY.findall(results)))
        if kind in FREE or kind.endswith("-done"):
            continue
        read = re.findall(r"%([^\s,()]+)", rest.partition(")")[0])
        total += sizes[name] + sum(sizes.get(operand, 0) for operand in read)
    return total
