"""Optimized attention in bfloat16 against the float32 reference, forward and backward."""

import re
import secrets
from collections import Counter

import jax
import jax.numpy as jnp

from benchmarks.gpu_parts.finding import Finding
from models.layers import reference
from models.self_attention import causal_attention
from runtime import process

ALLOWED = 1e-2
# B, T, H, K: those of GPT-2 small.
SHAPE = 4, 1024, 12, 64
SMALL_SHAPE = 2, 128, 3, 8
KERNELS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if output and gradients are close, and a GPU's program has both cuDNN kernels."""
    process.configure_jax()
    seed = secrets.randbits(32)
    finding.put(seed=seed, allowed=ALLOWED)
    rngs = jax.random.split(jax.random.key(seed), 4)
    # Both sides get inputs rounded to bfloat16, so that the errors are those of the arithmetic.
    shape = SMALL_SHAPE if rehearse else SHAPE
    rounded = [jax.random.normal(rng, shape).astype(jnp.bfloat16) for rng in rngs]
    inputs = [x.astype(jnp.float32) for x in rounded]
    with jax.default_matmul_precision("bfloat16"):
        program = jax.jit(outputs).lower(*inputs).compile()
    with jax.default_matmul_precision("float32"), reference.forced():
        # Another function, or jit would reuse the trace of the optimized one.
        references = jax.jit(lambda *inputs: outputs(*inputs))(*inputs)
    found = program(*inputs)
    errors = {name: float(error(found[name], references[name])) for name in references}
    kernels = Counter(re.findall(r"__cudnn\$fmha\w+", program.as_text()))
    finding.put(errors=errors, kernels=dict(kernels))
    is_close = all(one < ALLOWED for one in errors.values())
    has_kernels = all(kernels[name] for name in KERNELS)
    kernel = "cuDNN's kernels" if has_kernels else "no cuDNN kernel in the program"
    finding.put(has_kernels=has_kernels, summary=f"error {max(errors.values()):.1e}, {kernel}")
    # cuDNN exists on a GPU alone.
    finding.judge(is_close and (has_kernels or jax.default_backend() != "gpu"))


def outputs(query, key, value, dy) -> dict[str, jax.Array]:
    """Returns the attention's output, and its inputs' gradients for the output gradient `dy`."""
    y, vjp = jax.vjp(causal_attention, query, key, value)
    gradients = dict(zip(("query", "key", "value"), vjp(dy), strict=True))
    return {"output": y, **gradients}


def error(found: jax.Array, reference: jax.Array) -> jax.Array:
    """Returns the norm of the difference over the norm of the reference."""
    return jnp.linalg.norm((found - reference).ravel()) / jnp.linalg.norm(reference.ravel())
