"""Ahead-of-time compilation for H100s on a machine without a GPU.

It needs JAX's CUDA plugin, but neither driver nor GPU: `make gpu-compile` sets up an environment.
XLA does not autotune here as it would on a device, so the programs are not for timing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
from jax.experimental import topologies

from models.layers import target

H100 = "NVIDIA H100 80GB HBM3"
CUDNN_VERSION = 91200
# To add to XLA_FLAGS before JAX starts: autotuning needs a device.
XLA_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_shard_autotuning=false"
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


def devices(count: int = 1) -> Sequence[jax.Device]:
    """Returns the H100s of a node that programs can be compiled for, but not run on."""
    described = topologies.get_topology_desc(
        platform="cuda", target_config=TARGET_CONFIG, topology=f"1x1x{count}"
    )
    return described.devices


@contextmanager
def compiling() -> Iterator[None]:
    """Makes JAX trace and compile as if its device were an H100."""
    # JAX asks the driver for these before it lowers cuDNN's attention; there is no public switch.
    from jax._src.cudnn import fused_attention_stablehlo as checks

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


def unavailable_reason() -> str:
    """Returns the reason why JAX cannot compile for a GPU here; empty if it can."""
    try:
        devices()
    except Exception as error:  # A missing or unfit plugin: the errors share no class.
        return str(error)
    return "" if jax.default_backend() == "cpu" else f"JAX's device is {jax.default_backend()}"
