"""Device, its peak FLOP/s in bfloat16 products, and its memory bandwidth."""

import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.gpu_parts.finding import Finding
from benchmarks.rounds import seconds_of
from runtime import process

TIMES = 10


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if JAX sees a GPU."""
    process.configure_jax()
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    finding.put(
        device=device.device_kind,
        platform=device.platform,
        num_devices=jax.device_count(),
        compute_capability=getattr(device, "compute_capability", None),
        runtime=device.client.platform_version,
        memory_gib=stats.get("bytes_limit", 0) / 2**30,
    )
    finding.judge(None if rehearse else device.platform == "gpu")
    finding.put(summary=device.device_kind)
    size, mib = (256, 4) if rehearse else (8192, 2048)
    tflops = product_tflops(size)
    # Bytes read and bytes written.
    gb_per_second = 2 * mib * 2**20 / copy_seconds(mib) / 1e9
    finding.put(size=size, tflops=tflops, copied_mib=mib, gb_per_second=gb_per_second)
    finding.put(summary=f"{device.device_kind}: {tflops:.4g} TFLOP/s, {gb_per_second:.0f} GB/s")


def product_tflops(size: int) -> float:
    """Returns the TFLOP/s of a product of two square random matrices in bfloat16."""
    rngs = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(rng, (size, size), jnp.bfloat16) for rng in rngs)
    with jax.default_matmul_precision("bfloat16"):
        multiply = jax.jit(jnp.matmul).lower(left, right).compile()
    return 2e-12 * size**3 / median_seconds(lambda: multiply(left, right))


def copy_seconds(mib: int) -> float:
    """Returns the seconds of a copy of so many MiB on the device."""
    values = jax.random.normal(jax.random.key(1), (mib * 2**18,), jnp.float32)
    copy = jax.jit(jnp.copy)
    return median_seconds(lambda: copy(values))


def median_seconds(call: Callable[[], jax.Array]) -> float:
    """Returns the median time of several calls, after two to warm up."""
    taken = [seconds_of(lambda: call().block_until_ready()) for _ in range(2 + TIMES)]
    return statistics.median(taken[2:])
