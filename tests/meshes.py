"""Trains on meshes of eight virtual devices and prints what came of it, a line of JSON each.

    python -m tests.meshes '[["gpt2", "muon", [2, 2, 2]], ...]'

Each case makes 20 updates of the stage's smoke preset, widened so that eight devices divide it.
"""

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax
import numpy as np

from checkpoints import file_format
from runtime import devices, process
from training import plan
from training.setup import set_up

NUM_STEPS = 20
# Smoke presets are narrower than eight devices, and Tiny Shakespeare has 65 characters.
WIDE = {"model.pad_vocab_to": 72}
LAYERS = {"model.embed_dim": 32}
HEADS = {**LAYERS, "model.num_heads": 4}
SIZES = {
    "bigram": WIDE,
    "self_attention": WIDE | LAYERS,
    "multi_head_attention": WIDE | HEADS,
    "transformer_decoder": WIDE | HEADS | {"model.num_layers": 1},
    "gpt2": WIDE | HEADS,
}


def config_of(stage, optimizer, shape):
    """Returns the config of a case."""
    config = importlib.import_module(f"experiments.{stage}").get_config("smoke")
    config.update_from_flattened_dict(
        SIZES[stage]
        | {f"mesh.{axis}": size for axis, size in zip(devices.AXES, shape, strict=True)}
        | {
            "optimizer.name": optimizer,
            "train.precision": "float32",
            "train.batch_size": 8,
            "train.num_steps": NUM_STEPS,
        }
    )
    return config


def train(stage, optimizer, shape, folder):
    """Returns the losses of 20 updates, how much a device holds, and what checkpoints restore.

    Saves the state in `folder`, and compares it with that of the case before, restored here.
    """
    setup = set_up(config_of(stage, optimizer, shape))
    state = setup.initial_state()
    steps = setup.compile_train_steps(plan.step_shapes(setup))
    metrics = setup.initial_metrics(state.params)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    layout = [leaf.sharding for leaf in jax.tree.leaves(state)]
    losses = []
    for chunk in setup.chunks(0):
        for step in range(chunk.first, chunk.end):
            state, metrics = steps(state, metrics, chunk, step, step + 1)
            losses.append(float(metrics.loss))
    saved = {"params": state.params, "opt_state": state.opt_state}
    file_format.write(folder, jax.device_get(saved), {})
    return state, {
        "losses": losses,
        # Programs that take longer to compile, for the stage with all layers.
        "val": setup.evaluate(state.params)["val/loss"] if stage == "gpt2" else None,
        "sample": setup.write_sample(setup.gather(state.params)) if stage == "gpt2" else None,
        "held": held,
        "stays": layout == [leaf.sharding for leaf in jax.tree.leaves(state)],
        "devices": setup.mesh.size,
    }


def is_restored(state, folder, other):
    """Returns True if `state`, laid out like `other`, is read from `folder` bit for bit."""
    for name in ("params", "opt_state"):
        read = file_format.read(folder, name, getattr(other, name))
        for one, two in zip(*map(jax.tree.leaves, (read, getattr(state, name))), strict=True):
            if not np.array_equal(np.asarray(one), np.asarray(two)):
                return False
    return True


def main(cases):
    """Trains the cases, and restores the checkpoint of each on the mesh of the one before."""
    before = None
    with tempfile.TemporaryDirectory() as temporary:
        for number, case in enumerate(cases):
            folder = Path(temporary, f"{number}")
            state, line = train(*case, folder)
            if before and before[0] == case[:2]:
                line["restored"] = is_restored(state, folder, before[1])
            before = case[:2], state
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    process.configure_jax()
    main(json.loads(sys.argv[1]))
