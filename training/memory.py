"""Memory of a run, from its config: refused before anything is allocated, with the arithmetic."""

import math
from typing import Any, NamedTuple

import jax

from runtime import devices, memory
from runtime.errors import UserError
from training import plan
from training.setup import Setup

FLOAT_BYTES = 4


class Needs(NamedTuple):
    """Lower bound of a run's memory: activations, batches and the text come on top."""

    num_params: int
    optimizer_bytes: int
    logits: tuple[int, int, int]  # Windows, tokens of each, vocabulary: of the largest batch.
    copies: int  # Of parameters and optimizer state in one memory.
    parts: int  # Into which each device's copy is divided, by mesh.fsdp and mesh.tensor.

    @property
    def total(self) -> int:
        """The bytes of weights, gradients, optimizer state and one batch of logits."""
        replicated = 2 * FLOAT_BYTES * self.num_params + self.optimizer_bytes
        return self.copies * replicated // self.parts + FLOAT_BYTES * math.prod(self.logits)

    def arithmetic(self, optimizer: str) -> str:
        """Returns the sum in words."""
        state = (
            f"{self.num_params:,} parameters x {FLOAT_BYTES} bytes x 2 (weights, gradients) + "
            f"{amount(self.optimizer_bytes)} (state of {optimizer})"
        )
        copied = f"({state})" if self.copies > 1 or self.parts > 1 else state
        copied += f" x {self.copies} devices" * (self.copies > 1)
        copied += f" / {self.parts} parts" * (self.parts > 1)
        windows, length, vocab_size = self.logits
        logits = f"{windows:,} x {length:,} x {vocab_size:,} logits x {FLOAT_BYTES} bytes"
        return f"{copied} + {logits} = {amount(self.total)}"


def check(setup: Setup, optimizer: str) -> Needs:
    """Returns what the run needs.

    Raises UserError if its weights and logits do not fit into the free memory.
    """
    device = jax.local_devices()[0]
    needs, free = needs_of(setup), memory.free_bytes(device)
    if free is not None and needs.total > free:
        raise UserError(
            f"{needs.arithmetic(optimizer)}, and {device.platform} has {amount(free)} free: "
            "choose a smaller model (--config.model), fewer tokens (--config.data.tokenizer), or "
            "smaller batches (--config.train.batch_size, --config.eval.batch_size)"
        )
    return needs


def needs_of(setup: Setup) -> Needs:
    """Returns what the run of `setup` needs."""
    state = plan.state_shapes(setup)
    num_params, optimizer_bytes = _size(state.params)[0], _size(state.opt_state)[1]
    train, length = setup.train, setup.context_length
    of_training = train.batch_size // train.grad_accumulation_steps, length // train.loss_chunks
    windows, length = max(of_training, (setup.eval.batch_size, length), key=math.prod)
    # On a CPU all of JAX's devices share one memory; elsewhere each has its part of a batch.
    mesh = setup.mesh
    shared = mesh.devices.flat[0].platform == "cpu"
    if not shared:
        windows //= devices.batch_ways(mesh)
    logits = windows, length, setup.data.tokenizer.vocab_size
    copies = len(mesh.local_devices) if shared else 1
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    return Needs(num_params, optimizer_bytes, logits, copies, parts)


def amount(count: int) -> str:
    """Returns a number of bytes as 1.5 GB, 1.5 MB or 1.5 kB."""
    unit, name = (1e9, "GB") if count >= 1e8 else (1e6, "MB") if count >= 1e5 else (1e3, "kB")
    return f"{count / unit:,.1f} {name}"


def _size(tree: Any) -> tuple[int, int]:
    """Returns the numbers in a tree of shapes, and their bytes."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size for leaf in leaves), sum(
        leaf.size * leaf.dtype.itemsize for leaf in leaves
    )
