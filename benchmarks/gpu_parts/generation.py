"""Greedy text from the same weights on this device and on the CPU, in float32.

The process on the CPU is `python -m benchmarks.gpu_parts.generation EXPERIMENT`.
"""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import models
from benchmarks import workloads
from benchmarks.gpu_parts.finding import Finding
from inference.generation import generate
from inference.sampling import Sampling
from runtime import process

NUM_TEXTS = 2
VOCAB_SIZE = 65


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if both generate the same tokens, past the end of the context."""
    experiment = "gpt2.py:smoke" if rehearse else "gpt2.py"
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu_parts.generation", experiment],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    ) as on_cpu:
        found = np.array(tokens(experiment))
        expected = np.array(json.loads(on_cpu.communicate()[0]))
    are_equal = (found == expected).all(axis=0)
    equal_tokens = int(are_equal.size if are_equal.all() else are_equal.argmin())
    finding.put(
        device=jax.devices()[0].device_kind,
        num_texts=len(found),
        num_tokens=are_equal.size,
        equal_tokens=equal_tokens,
        num_different_tokens=len(np.unique(found)),
        summary=f"{equal_tokens} of {are_equal.size} tokens equal",
    )
    finding.judge(bool(are_equal.all()))


def tokens(experiment: str) -> list[list[int]]:
    """Returns greedy tokens [texts, tokens] from an experiment's model with `draw_params`."""
    process.configure_jax()
    config = workloads.config_named(experiment).model
    model = models.build(config, VOCAB_SIZE)
    made = generate(
        model,
        draw_params(model),
        np.arange(8, dtype=np.int32),
        num_tokens=config.context_length + 24,
        context_length=config.context_length,
        sampling=Sampling(temperature=0.0),
        seed=0,
        num_samples=NUM_TEXTS,
    )
    return np.concatenate(list(made), axis=1).tolist()


def draw_params(model: nn.Module) -> Any:
    """Returns parameters that do not depend on the device, larger than initial ones.

    Their size separates the likeliest token from the second: the smallest gap in these texts is
    0.7 % of the logits' standard deviation, far above the effect of summation order.
    """
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "scale":  # Layer norm.
            return np.ones(leaf.shape, leaf.dtype)
        return rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


if __name__ == "__main__":
    print(json.dumps(tokens(sys.argv[1])))
