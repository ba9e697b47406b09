"""Layouts over a mesh of devices: which of them has what part of each parameter and activation.

A mesh has three axes, of the sizes in `config.mesh`:

    data    each device has its part of a batch, and every parameter
    fsdp    each device has its part of a batch and of the parameters, and gathers a layer when it
            computes it (Rajbhandari et al., 2020; "fully sharded data parallel")
    tensor  each device computes its part of a layer: some heads, some units of the MLP, some of the
            vocabulary (Shoeybi et al., 2019)

JAX's compiler adds the communication. From the layout of the parameters alone it would choose a
poor one, with the right numbers: so a few activations have theirs, too. Modules stay as they are:
an interceptor lays their outputs out, by the name that the module has.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from runtime import devices
from runtime.devices import BATCH

Axes = tuple[str | None, ...]

# By the end of a parameter's path: the axis of the mesh that divides each of its dimensions. The
# optimizer's state has the same names. All others are whole on every device.
PARAMETERS: dict[str, Axes] = {
    "(token|table)/embedding": ("tensor", "fsdp"),
    "position/embedding": (None, "fsdp"),
    "next_token/embedding": ("fsdp", "tensor"),
    "(query|key|value|up|gate|logits)/kernel": ("fsdp", "tensor"),
    "(query|key|value|up|gate|logits)/bias": ("tensor",),
    "(out|down)/kernel": ("tensor", "fsdp"),
}
# By the name of a module: the axis that divides the last dimension of its output [B, T, ...].
ACTIVATIONS: dict[str, str | None] = {
    "embed|attention|mlp|down|block_[0-9]+|final_norm": None,
    "query|key|value|up|gate|logits|next_token": "tensor",
}
# Less work than this, in FLOPs, ends before a second core has begun its half.
LEAST_WORK = 1e8


def layout(tree: Any, mesh: Mesh) -> Any:
    """Returns the NamedSharding of each leaf of `tree`: parameters, optimizer state or a whole
    TrainState.
    """

    def of_leaf(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, PartitionSpec(*_axes_of(name, leaf.shape, mesh)))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def _axes_of(name: str, shape: tuple[int, ...], mesh: Mesh) -> Axes:
    for ending, axes in PARAMETERS.items():
        if re.search(f"(^|/)({ending})$", name) and len(axes) == len(shape):
            divides = [
                axis and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
                for axis, size in zip(axes, shape, strict=True)
            ]
            if any(divides):  # Else it is written as what is whole: programs are kept by it.
                return tuple(axis if yes else None for axis, yes in zip(axes, divides, strict=True))
    return ()


@contextmanager
def over(mesh: Mesh) -> Iterator[None]:
    """Traces the programs of the block for `mesh`, with the layouts of activations.

    Changes nothing on a mesh of one device.
    """
    if mesh.size == 1:
        yield
        return
    with jax.set_mesh(mesh), nn.intercept_methods(_lay_out):
        yield


def _lay_out(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Calls a module and lays its output out: an interceptor for `nn.intercept_methods`."""
    output = call(*args, **kwargs)
    name = context.module.name or ""
    if context.method_name == "unembed":
        return constrain(output, "tensor")
    if context.method_name == "__call__":
        for names, last in ACTIVATIONS.items():
            if re.fullmatch(names, name):
                return constrain(output, last)
    return output


def halves(params: Any, flops_per_weight: int, mesh: Mesh) -> Mesh | None:
    """Returns two devices of the CPU `mesh` if they do the work of a batch sooner, else None.

    `params` may be shapes; a batch takes `flops_per_weight` for each weight of its products.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    weights = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")
    return devices.halves(mesh) if weights * flops_per_weight >= LEAST_WORK else None


def whole(x: jax.Array) -> jax.Array:
    """Returns `x` on every device, for each process to read; itself if no mesh divides it."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if devices.is_laid_out() else x


def constrain(x: jax.Array, last: str | None) -> jax.Array:
    """Returns `x` [B, T, ...] with B divided over the mesh, and its last dimension over an axis.

    Dimensions that the axes do not divide stay whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    rows = BATCH if x.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH) == 0 else None
    columns = last if last and x.shape[-1] % mesh.shape[last] == 0 else None
    between = [None] * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(rows, *between, columns))
