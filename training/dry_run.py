"""Needs of a run, before it trains: `main.py --dry_run`, here or for GPUs that are elsewhere.

The training step is compiled, and XLA's plan says the memory. Nothing is written but the cache of
tokens.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from input_pipeline import batches, corpus
from runtime import memory as free_memory
from runtime.errors import UserError
from training import plan, roofline, run_start, topology
from training.compiled import Step, compile_step
from training.memory import amount
from training.setup import Setup, set_up, with_num_steps

# The largest share of a GPU that JAX can be given, and its variable; it takes 0.75 by default.
MOST, SHARE = 0.95, "XLA_PYTHON_CLIENT_MEM_FRACTION"
DEFAULT_SHARE = 0.75


def show(config: ConfigDict, target: str) -> None:
    """Prints what the run of a config, checked as a whole, needs on this machine or on `target`.

    Raises UserError for a text, a mesh or a target that can't be used, and for too little memory.
    """
    found = topology.devices(topology.count_of(target)) if target else None
    data = corpus.load(config.data)
    config = with_num_steps(config, data.tokenizer.vocab_size)
    setup = set_up(config, data, found)
    state = plan.state_shapes(setup)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(run_start.headline(config, setup.data, num_params, setup.precision, setup.mesh))
    kind = f" for {setup.mesh.size} x {topology.H100}, without them" if target else ""
    print(f"compiling{kind}", flush=True)
    step = compile_step(setup)
    for line in lines(config, setup, step, state, bool(target)):
        print(line)
    check_memory(setup, step, bool(target))


def lines(
    config: ConfigDict, setup: Setup, step: Step, state: Any, is_elsewhere: bool
) -> Iterator[str]:
    """Yields what a run needs; `is_elsewhere` is True for GPUs of training/topology.py."""
    train, length = config.train, config.model.context_length
    flops, tokens = setup.flops_per_step().total, train.batch_size * length
    times = train.num_steps * tokens / batches.size(setup.data.train)[0]
    yield f"an update: {train.batch_size:,} windows of {length:,} tokens, {flops:.3g} FLOPs"
    yield (
        f"{train.num_steps:,} updates: {train.num_steps * tokens:,} tokens, {times:,.1f} times the "
        f"text to train on, {train.num_steps * flops:.3g} FLOPs"
    )
    yield (
        f"memory of each device: {amount(step.peak_bytes)} at the peak, of them "
        f"{amount(device_bytes(state.params))} weights and "
        f"{amount(device_bytes(state.opt_state))} optimizer state"
    )
    if step.num_devices > 1:
        sent: Counter[str] = Counter()
        for one in step.collectives():
            sent[one.kind] += round(one.sent_bytes)
        kinds = ", ".join(f"{kind} {amount(count)}" for kind, count in sent.most_common())
        yield f"sent by each device in an update: {amount(sent.total())} ({kinds})"
    if is_elsewhere:
        least = roofline.times(step, flops)
        computing, memory, sending = (f"{1000 * seconds:.1f} ms" for seconds in least)
        yield (
            f"an update takes {1000 * least.least:.1f} ms or more, by a roofline, not measured: "
            f"{computing} of computing, {memory} of reading and writing, {sending} of sending"
        )


def device_bytes(tree: Any) -> int:
    """Returns the bytes of a tree of shapes and layouts that each device has."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def check_memory(setup: Setup, step: Step, is_elsewhere: bool) -> None:
    """Raises UserError if the devices have too little memory, and says what gives them more."""
    devices = setup.mesh.local_devices
    needed, kind = step.peak_bytes, devices[0].device_kind
    if is_elsewhere:
        has: float | None = MOST * topology.MEMORY
        if DEFAULT_SHARE * topology.MEMORY < needed <= MOST * topology.MEMORY:
            print(f"set {SHARE}={MOST}: by default JAX takes {DEFAULT_SHARE} of a GPU's memory")
    else:
        has = free_memory.free_bytes(devices[0])
        if devices[0].platform == "cpu":
            needed *= len(devices)  # They share it.
    if has is not None and needed > has:
        raise UserError(
            f"an update needs {amount(needed)}, and {kind} has {amount(round(has))} for it: "
            "lower --config.train.batch_size or raise --config.train.grad_accumulation_steps, set "
            "--config.train.loss_chunks=8 or --config.train.remat=blocks, or divide the model "
            "among devices by --config.mesh.fsdp"
        )
