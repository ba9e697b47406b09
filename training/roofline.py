"""Least time of an update on H100s that are not there: a roofline.

What a program computes, reads and writes, and sends, each divided by what the hardware does at its
peak (Williams, Waterman and Patterson, 2009). Real programs reach about half of the peaks.
"""

from typing import NamedTuple

import numpy as np

from training import topology
from training.compiled import Step

# Peaks of an H100 SXM, of NVIDIA's data sheet: operations in bfloat16 and bytes of memory a second;
# bytes to the other GPUs of a node, by NVLink in one direction. And bytes to other nodes, by a
# network card of 400 Gbit/s for each GPU, as a DGX H100 has.
FLOPS, MEMORY, NODE, NETWORK = 989e12, 3.35e12, 450e9, 50e9


class Times(NamedTuple):
    """Seconds of an update in which a device computes, uses its memory, and sends."""

    computing: float
    memory: float
    sending: float

    @property
    def least(self) -> float:
        """Seconds if all three go on at once."""
        return max(self)

    @property
    def one_by_one(self) -> float:
        """Seconds if each waits for the others."""
        return sum(self)


def times(step: Step, flops: float) -> Times:
    """Returns the seconds of a program whose update has `flops` on all devices together."""
    sending = 0.0
    for one in step.collectives():
        is_in_node = (np.ptp(one.groups // topology.PER_NODE, axis=1) == 0).all()
        sending += one.sent_bytes / (NODE if is_in_node else NETWORK)
    return Times(flops / step.num_devices / FLOPS, step.accessed_bytes() / MEMORY, sending)
