"""Compilation for H100s on a machine without a GPU.

It needs JAX's CUDA plugin, but neither driver nor GPU: `make gpu-compile` sets up an environment.
XLA does not autotune here as it would on a device, so the programs are not for timing.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runtime import process
from runtime.errors import UserError

if TYPE_CHECKING:
    import jax

H100 = "NVIDIA H100 80GB HBM3"
CUDNN_VERSION = 91200
# Autotuning needs a device.
XLA_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_shard_autotuning=false"
PER_NODE = 8  # GPUs.
MEMORY = 80e9  # Bytes of an H100, of which JAX takes three quarters by default.
# XLA's GpuTargetConfigProto of an H100 SXM.
TARGET_CONFIG = f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{H100}"
"""


def count_of(name: str) -> int:
    """Returns the number of H100s in a name such as h100x8. Raises UserError for another name."""
    count = int(found[1]) if (found := re.fullmatch(r"h100x(\d{1,5})", name)) else 0
    if not count or (count > PER_NODE and count % PER_NODE):
        raise UserError(
            f"--for={name}: expected h100x1 to h100x{PER_NODE}, or a multiple of {PER_NODE} for "
            "several nodes"
        )
    return count


def prepare() -> None:
    """Sets the variables that JAX needs for this; call it before JAX is imported."""
    # Programs run on the CPU, but an H100 has fast bfloat16.
    os.environ |= {"JAX_PLATFORMS": "cpu", process.FAST_BFLOAT16: "true"}
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".strip()


def devices(count: int = 1) -> "Sequence[jax.Device]":
    """Returns H100s that programs can be compiled for, but not run on.

    Raises UserError where JAX can't do that.
    """
    from jax.experimental import topologies

    nodes, each = (1, count) if count <= PER_NODE else (count // PER_NODE, PER_NODE)
    try:
        return topologies.get_topology_desc(
            platform="cuda", target_config=TARGET_CONFIG, topology=f"1x{nodes}x{each}"
        ).devices
    except Exception as error:  # A missing or unfit plugin: the errors share no class.
        raise UserError(
            f"JAX can't compile for a GPU here ({error}): make gpu-compile sets up "
            ".venv-gpu-compile, in which it can: use its bin/python"
        ) from None


@contextmanager
def compiling() -> Iterator[None]:
    """Makes JAX trace and compile as if its device were an H100."""
    # JAX asks the driver for these before it lowers cuDNN's attention; there is no public switch.
    from jax._src.cudnn import fused_attention_stablehlo as checks

    from models.layers import target

    answers = {
        "check_cudnn_version": lambda: CUDNN_VERSION,
        "check_compute_capability": lambda least: float(least) <= 9.0,
        "is_cuda_compute_capability_equal": lambda asked: float(asked) == 9.0,
    }
    own = {name: getattr(checks, name) for name in answers}
    try:
        for name, answer in answers.items():
            setattr(checks, name, answer)
        with target.compiling_for(target.Target("gpu", 9.0)):
            yield
    finally:
        for name, function in own.items():
            setattr(checks, name, function)
